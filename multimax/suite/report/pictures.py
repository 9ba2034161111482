"""A figure as files: the picture as SVG and PNG, what it shows as CSV.

The CSV is what can be compared on any machine. The bytes of the pictures repeat, without date and random names, with
one version of Matplotlib, which the sidecar names.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from multimax.suite.analysis.style import SETTINGS
from multimax.suite.report.outputs import Output, Row, csv_table
from multimax.suite.report.records import Record


def picture(
    name: str, figure: Figure, rows: Sequence[Row], records: Sequence[Record] = (), sources: Sequence[Path] = ()
) -> Output:
    """The output ``figures/NAME`` of a figure that shows ``rows``."""
    files = {".csv": csv_table(list(rows[0]), rows), ".svg": drawn(figure, "svg"), ".png": drawn(figure, "png")}
    return Output(f"figures/{name}", files, records, sources, {"matplotlib": matplotlib.__version__})


def drawn(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(content, format=kind, dpi=150, metadata=metadata)
    return content.getvalue()
