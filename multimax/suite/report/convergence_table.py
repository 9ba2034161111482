"""How far the decided runs had converged: the spread of what they measured, and whether their loss still fell."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy

from multimax.suite.plan import Entry, read_plan
from multimax.suite.planned.table import measured
from multimax.suite.report.findings import Rows, confirming, shown, sources
from multimax.suite.report.outputs import Output, Row, table

COLUMNS = ("entry", "function", "seeds", "measure", "median", "least", "most", "last / third quarter")
TEXT = """# Convergence of the decided runs

Made by `python -m multimax.suite.report` from the confirmatory runs in `results/planned`: what each entry's first
comparison measures, as median, least and most over *seeds*, which shows errors that are skewed or of two kinds.
*Last / third quarter* is the mean training loss over the last quarter of the steps, divided by that over the third:
median (least to most). Near 1 the loss stood still. Each function is here once all of its planned seeds are, as are
those that decide the entry.

"""


def convergence_table(plan: Path, folder: Path) -> Iterator[Output]:
    """The table, if there is a plan."""
    if plan.is_file():
        rows = [row for entry in read_plan(plan).values() for row in table_rows(entry, confirming(entry, folder))]
        yield table("convergence", TEXT, COLUMNS, rows, sources=sources(plan, folder))


def table_rows(entry: Entry, runs: Rows) -> Iterator[Row]:
    for arm in shown(entry, runs):
        of = [runs[arm, seed] for seed in entry.seeds]
        for measure in entry.comparisons[0].margins:
            values = [measured(row, measure, entry.id) for row in of]
            numbers = {"median": numpy.median(values), "least": min(values), "most": max(values)}
            yield {
                "entry": entry.id,
                "function": arm,
                "seeds": str(len(of)),
                "measure": measure,
                **{name: f"{value:.3g}" for name, value in numbers.items()},
                "last / third quarter": fall(of),
            }


def fall(runs: Sequence[Mapping[str, str]]) -> str:
    """Empty where a run was too short to have quarters."""
    third, last = (
        numpy.array([float(row.get(name) or "nan") for row in runs]) for name in ("third_quarter", "last_quarter")
    )
    with numpy.errstate(divide="ignore", invalid="ignore"):
        ratios = last / third
    if not numpy.isfinite(ratios).all():
        return ""
    return f"{numpy.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
