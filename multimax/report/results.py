"""Every table and figure that there is under ``results/``, from its ``runs`` and its ``claims.yaml``."""

from collections.abc import Iterator
from pathlib import Path

from multimax.report.claim_tables import claim_tables
from multimax.report.claims import read_claims
from multimax.report.outputs import Output
from multimax.report.records import read_records
from multimax.report.tables import tables


def all_tables(results: Path) -> Iterator[Output]:
    """One table for each experiment that has runs, and those of the claims. Raises UserError."""
    records, path = read_records(results / "runs"), results / "claims.yaml"
    yield from tables(records)
    yield from claim_tables(read_claims(path), path, records)
