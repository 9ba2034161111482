"""Figures as the bytes of files.

The CSV of a figure can be compared on any machine. Its picture has the same bytes whenever it is drawn with the same
version of Matplotlib: it has no date and no random identifiers, and is rounded because processors may disagree on the
last digits of a logarithm.
"""

import io
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from multimax.suite.figures.style import SETTINGS
from multimax.suite.text_tables import Row, csv_table


def figure_files(figure: Figure, rows: Sequence[Row]) -> dict[str, bytes]:
    """By suffix: the figure as SVG and PNG, and the ``rows`` it shows as CSV."""
    return {".csv": csv_table(list(rows[0]), rows), ".svg": drawn(figure, "svg"), ".png": drawn(figure, "png")}


def drawn(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(content, format=kind, dpi=150, metadata=metadata)
    return rounded(content.getvalue()) if kind == "svg" else content.getvalue()


def rounded(svg: bytes) -> bytes:
    """Round coordinates to a thousandth of a point, and number the identifiers in their order.

    Matplotlib's identifiers are digests of the exact coordinates.
    """
    text = re.sub(r"(?<!scale\()(?<![\d.])-?\d+\.\d{4,}", lambda number: f"{float(number[0]):z.3f}", svg.decode())
    for count, name in enumerate(dict.fromkeys(re.findall(r'id="([a-z][0-9a-f]{10})"', text))):
        text = text.replace(name, f"shape{count}")
    return text.encode()
