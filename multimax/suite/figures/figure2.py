"""Figure 2 of arXiv 2406.01189: the functions on two scores, where all that matters can be seen."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from multimax import reweight
from multimax.suite.figures.style import figure, rounded, style_of
from multimax.suite.measures.three_scores import Function, at_temperature
from multimax.suite.text_tables import Row

RANGES = torch.tensor([-1.0, 1.0], dtype=torch.float64)
TS = torch.tensor([-2.0, -0.75], dtype=torch.float64)
"""First-order MultiMax with parameters chosen to be visible, not learned.

The slope is 3 below -1, 1 in between and 1/4 above 1.
"""

LEVELS = {"small": -3.0, "medium": 0.0, "large": 3.0}
DIFFERENCES = torch.arange(-80, 81, dtype=torch.float64) / 20
FUNCTIONS = {
    "softmax": reweight.softmax,
    "evsoftmax": reweight.evsoftmax,
    "sparsemax": reweight.sparsemax,
    "entmax15": reweight.entmax15,
}


def figure2() -> tuple[Figure, list[Row]]:
    """The figure, and everything it shows as rows."""
    with figure(10.5, 3.7) as drawing:
        fixed, modulation, levels = drawing.subplots(1, 3)
        rows = draw_fixed(fixed) + draw_modulation(modulation) + draw_levels(levels)
    return drawing, rows


def multimax(scores: Tensor) -> Tensor:
    return reweight.multimax(scores, RANGES, TS, order=1)


def first_weight(function: Function, level: float) -> Tensor:
    """Weight of the first of two scores around ``level``, by ``DIFFERENCES`` of first - second."""
    scores = torch.stack([level + DIFFERENCES / 2, level - DIFFERENCES / 2], -1)
    return function(scores)[:, 0]


def draw(axes: Axes, panel: str, series: str, x: Tensor, y: Tensor, **line: Any) -> list[Row]:
    x, y = rounded(x), rounded(y)
    axes.plot(x, y, **line)
    return [
        {"panel": panel, "series": series, "x": f"{at:.3f}", "y": f"{value:.4f}"}
        for at, value in zip(x.tolist(), y.tolist(), strict=True)
    ]


def draw_fixed(axes: Axes) -> list[Row]:
    axes.set_title("a  Functions of the difference alone")
    rows = []
    for temperature, line in ((4.0, ":"), (0.25, "-")):
        y = first_weight(at_temperature(temperature), 0)
        name = f"softmax, t = {temperature:g}"
        rows += draw(axes, "fixed", name, DIFFERENCES, y, color="0.6", linestyle=line, linewidth=1, label=name)
    for name, function in FUNCTIONS.items():
        style = style_of(name)
        y = first_weight(function, 0)
        rows += draw(axes, "fixed", name, DIFFERENCES, y, color=style.color, linestyle=style.line, label=style.label)
    axes.legend(loc="lower right", fontsize=7.5, handlelength=2.6)
    axes.set_xlabel("difference of the two scores")
    axes.set_ylabel("weight of the first")
    return rows


def draw_modulation(axes: Axes) -> list[Row]:
    axes.set_title("b  What MultiMax does to a score")
    x = torch.arange(-50, 51, dtype=torch.float64) / 10
    style = style_of("multimax")
    rows = draw(axes, "modulation", "identity", x, x, color="0.6", linewidth=1)
    y = reweight.seglu(x, RANGES, TS, order=1)
    rows += draw(axes, "modulation", "SegLU", x, y, color=style.color, linestyle=style.line)
    for at, text in zip(RANGES.tolist(), "bd", strict=True):
        axes.axvline(at, color="0.85", linewidth=1, zorder=0)
        axes.annotate(text, (at, -12.5), (3, 0), textcoords="offset points", color="0.4")
    axes.annotate("unchanged", (5, 5), (0, 3), textcoords="offset points", ha="right", color="0.4", fontsize=8)
    axes.annotate("SegLU", (5, 2), (0, -14), textcoords="offset points", ha="right", color=style.color, fontsize=8)
    axes.set_xlabel("score")
    axes.set_ylabel("modulated score")
    return rows


def draw_levels(axes: Axes) -> list[Row]:
    axes.set_title("c  MultiMax: of their level, too")
    style, softmax = style_of("multimax"), style_of("softmax")
    rows = draw(
        axes, "levels", "softmax", DIFFERENCES, first_weight(reweight.softmax, 0),
        color=softmax.color, linewidth=1, label="softmax",
    )  # fmt: skip
    for (level, mean), line in zip(LEVELS.items(), (":", "--", "-"), strict=True):
        y = first_weight(multimax, mean)
        label = f"MultiMax around {mean:g}"
        rows += draw(axes, "levels", level, DIFFERENCES, y, color=style.color, linestyle=line, label=label)
    axes.legend(loc="upper left", fontsize=7.5, handlelength=2.6)
    axes.set_xlabel("difference of the two scores")
    axes.set_ylabel("weight of the first")
    return rows
