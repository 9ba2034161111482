"""A picture of each table: contestants as dots at their ratio to the first, or lines over size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from benchmarks.aims import Row
from benchmarks.bench import BACKWARD, BOTH, FORWARD
from multimax.suite.figures.style import figure, style_of

# Line style by way: our own path is solid, what holds everything at once dashed, all else dotted.
LINES = dict.fromkeys(("kernel", "default", "pieces", "ours", "flash"), "-") | dict.fromkeys(
    ("eager", "whole", "reference"), "--"
)
# An axis whose ends differ by less than this factor has even steps: as powers, it would have only a
# tick or two.
SHORT = 3
UNITS = {
    "ratio": "time, over the first",
    "of_copy": "bandwidth, over a copy's",
    "milliseconds": "milliseconds",
    "peak_mb": "peak memory, MiB",
}


@dataclass(frozen=True)
class Growth:
    """Lines of ``number`` over the sizes of a part."""

    part: str
    number: str
    direction: str
    over: str  # what the size is


GROWTH = {
    "functions": [
        Growth("row length", "of_copy", FORWARD, "entries of a row"),
        Growth("row length", "of_copy", BACKWARD, "entries of a row"),
        Growth("row length", "of_copy", BOTH, "entries of a row"),
        Growth("threads", "milliseconds", BOTH, "threads"),
    ],
    "attention": [
        Growth("length", "ratio", FORWARD, "length N"),
        Growth("length", "ratio", BOTH, "length N"),
        Growth("length", "peak_mb", BOTH, "length N"),
    ],
    "output_layer": [
        Growth("loss", "ratio", BOTH, "vocabulary"),
        Growth("loss", "milliseconds", BOTH, "vocabulary"),
        Growth("loss", "peak_mb", BOTH, "vocabulary"),
    ],
}


def draw(name: str, rows: Sequence[Row]) -> Figure | None:
    """The picture of the benchmark ``name``; None if nothing in it was measured."""
    measured = [row for row in rows if row["milliseconds"] and "causal" not in row["case"]]
    growths = [(g, lines) for g in GROWTH.get(name, []) if (lines := [r for r in measured if drawn_by(g, r)])]
    growing = {growth.part for growth, _ in growths}
    fixed = [row for row in measured if row["part"] not in growing]
    cases = list(dict.fromkeys((row["part"], row["case"]) for row in fixed))
    if not measured:
        return None
    most = max((len(contestants(fixed, case)) for case in cases), default=0)
    heights = ([0.9 + 0.2 * most] if cases else []) + ([3.6] if growths else [])
    with figure(11, sum(heights)) as drawing:
        parts = list(drawing.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        if cases:
            before: list[tuple[str, str]] = []
            for axes, case in zip(parts[0].subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
                names = contestants(fixed, case)
                dots(axes, case, fixed, labelled=names != before)
                before = names
        if growths:
            for axes, (growth, lines) in zip(
                parts[-1].subplots(1, len(growths), squeeze=False)[0], growths, strict=True
            ):
                grow(axes, growth, lines)
            handles: dict[str, Artist] = {}
            for axes in parts[-1].axes:
                lines, labels = axes.get_legend_handles_labels()
                handles |= dict(zip(labels, lines, strict=True))
            parts[-1].legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=7)
    return drawing


def drawn_by(growth: Growth, row: Row) -> bool:
    return row["part"] == growth.part and row["direction"] == growth.direction and bool(row[growth.number])


def contestants(rows: Sequence[Row], case: tuple[str, str]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((r["function"], r["way"]) for r in rows if (r["part"], r["case"]) == case))


def dots(axes: Axes, case: tuple[str, str], rows: Sequence[Row], labelled: bool) -> None:
    """One case, with a line for each contestant; marks of forward alone are hollow."""
    names = contestants(rows, case)[::-1]
    for row in rows:
        if (row["part"], row["case"]) == case:
            style = style_of(row["function"])
            face = "none" if row["direction"] == FORWARD else style.color
            place = float(row["ratio"]), names.index((row["function"], row["way"]))
            axes.plot(*place, marker=style.marker, color=style.color, markerfacecolor=face, markersize=style.size)
    axes.axvline(1, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    plain(axes, "x")
    axes.set_yticks(range(len(names)), [", ".join(name) if labelled else "" for name in names], fontsize=7)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.grid(axis="both", color="0.92")
    axes.set_axisbelow(True)
    both = any(row["direction"] == FORWARD for row in rows)
    axes.set_xlabel(UNITS["ratio"] + ("; hollow: forward alone" if both else ""))
    axes.set_title("\n".join(case), fontsize=8)


def grow(axes: Axes, growth: Growth, rows: Sequence[Row]) -> None:
    for function, way in dict.fromkeys((row["function"], row["way"]) for row in rows):
        points = sorted(
            (float(row["size"]), float(row[growth.number]))
            for row in rows
            if (row["function"], row["way"]) == (function, way)
        )
        style = style_of(function)
        line = LINES.get(way, ":")
        axes.plot(*zip(*points, strict=True), line, color=style.color, label=f"{function}, {way}", linewidth=1.2)
        marks = {"marker": style.marker, "markersize": style.size * 0.6, "linestyle": ""}
        axes.plot(*zip(*points, strict=True), color=style.color, **marks)
    sizes = sorted({float(row["size"]) for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes if len(sizes) < 5 else sizes[::2], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if growth.number != "of_copy":
        axes.set_yscale("log")
        plain(axes, "y")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.set_xlabel(growth.over)
    axes.set_ylabel(UNITS[growth.number])
    axes.set_title(f"{growth.part}, {growth.direction}", fontsize=8)


def plain(axes: Axes, which: str) -> None:
    """Label powers of ten as plain numbers; 2 and 5 too if the ends differ less than 100-fold.

    An axis shorter than ``SHORT`` gets even steps instead.
    """
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    if high / low < SHORT:
        axis.set_major_locator(MaxNLocator(6))
        axis.set_minor_locator(NullLocator())
    between = (1, 2, 5) if high / max(low, 1e-9) < 100 else (1,)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(
        FuncFormatter(
            lambda value, _: f"{value:g}" if round(value / 10 ** math.floor(math.log10(value))) in between else ""
        )
        if len(between) > 1
        else NullFormatter()
    )
