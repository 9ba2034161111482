"""Attention as heat maps, side by side over runs.

What is drawn is a dict that can be kept as JSON. It has ``rows`` of panels, each of them
``{"label": str, "panels": [{"title": str, "values": [[...], ...]}, ...]}``. Maps of an image also
have the ``image``, a PNG in base64, and the ``query``: the patch whose attention is shown, or None.
Maps of text have the tokens of the values' rows, ``queries``, and of their columns, ``keys``.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from multimax.suite.figures.style import figure
from multimax.suite.text_tables import Row

Maps = Mapping[str, Any]
COLORS = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.15, 1, 256))).with_extremes(bad="white")
INVISIBLE = {"\n": "\N{RETURN SYMBOL}", " ": "\N{OPEN BOX}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}


def panel(title: str, values: Any) -> dict[str, Any]:
    """A panel that shows a tensor [rows, columns], rounded to four significant digits."""
    return {"title": title, "values": [[float(f"{value:.4g}") for value in row] for row in values.tolist()]}


def draw_maps(of: Mapping[str, Maps]) -> tuple[Figure, list[Row]]:
    """The figure for the maps of each run, by label, and its numbers: one row per cell."""
    first = next(iter(of.values()))
    drawing = draw_text(of) if "keys" in first else draw_row(of) if is_single(first) else draw_images(of)
    rows: list[Row] = [
        {"run": label, "row of panels": line["label"], "panel": part["title"]}
        | {"row": str(i), "column": str(j), "value": f"{value:.4g}"}
        for label, found in of.items()
        for line in found["rows"]
        for part in line["panels"]
        for i, values in enumerate(part["values"])
        for j, value in enumerate(values)
    ]
    return drawing, rows


def explain(drawing: Figure, darkest: str = "the largest of its map") -> None:
    drawing.supxlabel(f"white: exactly 0 | pale: near 0 | dark: {darkest}", fontsize=7)


def is_single(found: Maps) -> bool:
    return len(found["rows"]) == 1 and len(found["rows"][0]["panels"]) == 1


def draw_row(of: Mapping[str, Maps]) -> Figure:
    """One image, and beside it the one panel of each run."""
    with figure(1.35 * (1 + len(of)), 2.0) as drawing:
        image, *panels = drawing.subplots(1, 1 + len(of))
        draw_picture(image, next(iter(of.values())))
        for axes, (label, found) in zip(panels, of.items(), strict=True):
            (part,) = found["rows"][0]["panels"]
            heat_map(axes, part["values"])
            axes.set_title(f"{label}\n{part['title']}".strip(), fontsize=8)
        explain(drawing)
    return drawing


def draw_images(of: Mapping[str, Maps]) -> Figure:
    """A row for each run: the image with the query outlined, then the panels."""
    count = max(len(found["rows"][0]["panels"]) for found in of.values())
    with figure(1.25 * (1 + count) + 0.3, 1.4 * len(of) + 0.3) as drawing:
        grid = drawing.subplots(len(of), 1 + count, squeeze=False)
        for axes_of_run, (label, found) in zip(grid, of.items(), strict=True):
            image, *panels = axes_of_run
            draw_picture(image, found)
            image.set_ylabel(label, fontsize=8)
            heat_maps(panels, found["rows"][0]["panels"])
        explain(drawing)
    return drawing


def draw_text(of: Mapping[str, Maps]) -> Figure:
    """The panels of all runs stacked, on one scale, with query tokens on the left and key tokens at the bottom."""
    lines = [(label, found, line) for label, found in of.items() for line in found["rows"]]
    count = max(len(line["panels"]) for _, _, line in lines)
    first = lines[0][1]
    largest = max(float(np.max(part["values"])) for _, _, line in lines for part in line["panels"])
    side = 0.125  # inches of a token
    width, height = max(1.1, side * len(first["keys"])), max(1.1, side * len(first["queries"]))
    with figure(count * (width + 0.2) + 1.2, len(lines) * (height + 0.3) + 0.8) as drawing:
        grid = drawing.subplots(len(lines), count, squeeze=False)
        for axes_of_line, (label, found, line) in zip(grid, lines, strict=True):
            heat_maps(axes_of_line, line["panels"], largest)
            axes_of_line[0].set_yticks(range(len(found["queries"])), visible(found["queries"]), fontsize=6)
            axes_of_line[0].set_ylabel(f"{label}\n{line['label']}".strip(), fontsize=8)
        for axes in grid[-1]:
            axes.set_xticks(range(len(first["keys"])), visible(lines[-1][1]["keys"]), fontsize=6, rotation=90)
        explain(drawing, f"{largest:.2g}, the largest of all maps")
    return drawing


def heat_maps(several: Sequence[Axes], panels: Sequence[Mapping[str, Any]], largest: float = 0.0) -> None:
    """Each panel under its title; axes that are left over are hidden."""
    for axes, part in zip(several, panels, strict=False):
        heat_map(axes, part["values"], largest)
        axes.set_title(part["title"], fontsize=8)
    for axes in several[len(panels) :]:
        axes.set_visible(False)


def heat_map(axes: Axes, values: Sequence[Sequence[float]], largest: float = 0.0) -> None:
    """A map whose colours run from 0 to ``largest``, or to its own maximum; exact zeros are white.

    The maximum is printed below the map.
    """
    array = np.array(values)
    axes.imshow(np.ma.masked_equal(array, 0), COLORS, vmin=0, vmax=largest or array.max() or 1, interpolation="none")
    plain(axes)
    axes.set_xlabel(f"up to {array.max():.2g}", fontsize=6.5, labelpad=2)


def draw_picture(axes: Axes, found: Maps) -> None:
    picture = Image.open(io.BytesIO(base64.b64decode(found["image"])))
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="none")
    plain(axes)
    if (query := found["query"]) is not None:
        values = found["rows"][0]["panels"][0]["values"]
        height, width = picture.height / len(values), picture.width / len(values[0])
        row, column = divmod(query, len(values[0]))
        place = (column * width - 0.5, row * height - 0.5)
        axes.add_patch(Rectangle(place, width, height, fill=False, edgecolor="black", linewidth=2.4))
        axes.add_patch(Rectangle(place, width, height, fill=False, edgecolor="white", linewidth=1.2))


def plain(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color="0.7", linewidth=0.6)


def visible(tokens: Sequence[str]) -> list[str]:
    return [INVISIBLE.get(token, token) for token in tokens]
