"""Paired differences as a forest plot: faint marks for pairs, a strong one for their mean.

The mean lies on its interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from multimax.suite.figures.style import figure, style_of
from multimax.suite.text_tables import Row

LEFT = 0.01  # where the title and the groups' names begin, in widths of the figure
WIDTH = 88  # characters in a line of the title


@dataclass(frozen=True)
class Line:
    """One line of the plot, in the style of ``function``.

    The mark of its mean is hollow if it is ``secondary`` or has no interval.
    """

    label: str
    function: str
    pairs: Sequence[float]
    mean: float
    interval: tuple[float, float] | None
    secondary: bool = False


def forest(groups: Mapping[str, Sequence[Line]], title: str, axis: str) -> tuple[Figure, list[Row]]:
    """The groups one below the other, each under its name; and everything shown, as rows."""
    count = sum(len(lines) + 1 for lines in groups.values())
    with figure(7.0, 1.0 + 0.24 * count) as drawing:
        axes = drawing.subplots()
        across = blended_transform_factory(drawing.transFigure, axes.transData)
        height = 0
        ticks: dict[int, str] = {}
        for name, lines in groups.items():
            text = axes.text(LEFT, height, name, transform=across, va="center", fontsize=8, color="0.4")
            text.set_in_layout(False)  # a long name takes no room from the plot
            for line in lines:
                height += 1
                draw(axes, height, line)
                ticks[height] = line.label
            height += 1
        axes.axvline(0, color="0.6", linewidth=1, zorder=0)
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.set_ylim(height - 0.4, -0.6)
        axes.tick_params("y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
        axes.set_xlabel(axis)
        drawing.suptitle(fill(title, WIDTH), fontsize=10, x=LEFT, horizontalalignment="left")
    return drawing, [
        {"experiment": name, "function": line.label, "kind": kind, "value": f"{value:.4f}"}
        for name, lines in groups.items()
        for line in lines
        for kind, value in [
            *(("pair", pair) for pair in line.pairs),
            ("mean", line.mean),
            *zip(("low", "high"), line.interval or (), strict=False),
        ]
    ]


def draw(axes: Axes, height: int, line: Line) -> None:
    style = style_of(line.function)
    if line.interval is not None:
        axes.plot(line.pairs, [height] * len(line.pairs), "|", color=style.color, markersize=7, alpha=0.5)
        axes.plot(line.interval, [height, height], color=style.color, linewidth=1.6)
    face = "white" if line.secondary or line.interval is None else style.color
    look = {"marker": style.marker, "linestyle": "", "markersize": style.size, "color": style.color}
    axes.plot(line.mean, height, **look, markerfacecolor=face)
