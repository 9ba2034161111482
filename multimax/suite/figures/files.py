"""Tables and figures as files, each put in place by one rename.

A CSV can be compared on any machine. The bytes of a picture repeat, without date and random names, with one version of
Matplotlib.
"""

import csv
import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from multimax.suite.figures.style import SETTINGS

Row = Mapping[str, str]


def csv_table(columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def figure_files(figure: Figure, rows: Sequence[Row]) -> dict[str, bytes]:
    """By suffix, a figure as SVG and PNG, and the ``rows`` that it shows as CSV."""
    return {".csv": csv_table(list(rows[0]), rows), ".svg": drawn(figure, "svg"), ".png": drawn(figure, "png")}


def drawn(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(content, format=kind, dpi=150, metadata=metadata)
    return content.getvalue()
