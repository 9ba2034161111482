"""Rows of the tables in docs/data.md: an input, its outcome in words, and what a test expects."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[3] / "docs" / "data.md"


class Row(NamedTuple):
    """One kind of input."""

    what: str
    outcome: str  # in words, as docs/data.md has it
    given: object  # what the test feeds
    expected: object  # what it must become, or ``Refused``


class Said(NamedTuple):
    """What is read, and a pattern for the line that is said before training starts."""

    read: object
    line: str


class Refused(str):
    """A pattern that the reason for refusing must match."""


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table; inputs with the same outcome share a line."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        lines.setdefault(row.outcome, []).append(row.what)
    return "\n".join(
        ["| given | what happens |", "|---|---|", *(f"| {'; '.join(w)} | {o} |" for o, w in lines.items())]
    )


def assert_documented(rows: Iterable[Row]) -> None:
    expected = table(rows)
    assert expected in DOCS.read_text(encoding="utf-8"), f"docs/data.md needs this table:\n{expected}"
