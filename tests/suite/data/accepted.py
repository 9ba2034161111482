"""Rows of the tables of docs/data.md: what is fed, what becomes of it in words, and how a test sees that it does."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[3] / "docs" / "data.md"


class Row(NamedTuple):
    """One kind of input."""

    what: str
    outcome: str  # in the words of docs/data.md
    given: object  # what the test feeds
    expected: object  # what it must become; a ``Refused`` where it is refused


class Said(NamedTuple):
    """What is read, and what one line says before training starts."""

    read: object
    line: str


class Refused(str):
    """Text that the reason has in it."""


def table(rows: Iterable[Row]) -> str:
    """Rows as Markdown; kinds that the same happens to stand in one line."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        lines.setdefault(row.outcome, []).append(row.what)
    return "\n".join(
        ["| given | what happens |", "|---|---|", *(f"| {'; '.join(w)} | {o} |" for o, w in lines.items())]
    )


def assert_documented(rows: Iterable[Row]) -> None:
    expected = table(rows)
    assert expected in DOCS.read_text(encoding="utf-8"), f"docs/data.md needs this table:\n{expected}"
