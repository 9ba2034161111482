"""How a function looks on the page: as in the figures, Matplotlib's own outlines and dashes."""

from typing import Any

import matplotlib
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from multimax.suite.figures.style import Style, style_of


def look(function: str) -> dict[str, Any]:
    """A function's look in pictures, for SVG.

    ``outline`` is the marker's, one high with y upwards; nothing is filled unless ``filled``. ``dash`` has lengths in
    line widths, none for a solid line.
    """
    of: Style = style_of(function)
    marker = MarkerStyle(of.marker)
    drawn = {"outline": outline(marker), "filled": marker.is_filled(), "dash": dashes(of.line)}
    return {"label": of.label, "color": of.color, "size": of.size} | drawn


def outline(marker: MarkerStyle) -> str:
    """The path of Matplotlib's marker as that of SVG."""
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    path = marker.get_path().transformed(marker.get_transform())
    return "".join(
        "Z" if code == Path.CLOSEPOLY else letters[code] + " ".join(f"{value:.3g}" for value in points)
        for points, code in path.iter_segments(simplify=False)
    )


def dashes(line: Any) -> list[float]:
    """Lengths in line widths of a line style as Matplotlib takes it."""
    named: Any = {"--": "lines.dashed_pattern", "-.": "lines.dashdot_pattern", ":": "lines.dotted_pattern"}
    if line == "-":
        return []
    return list(matplotlib.rcParamsDefault[named[line]] if isinstance(line, str) else line[1])
