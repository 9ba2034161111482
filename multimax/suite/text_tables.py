"""Tables as text: CSV and Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence

Row = Mapping[str, str]


def csv_table(columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    """The table as CSV; a cell that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]]) + "\n"
