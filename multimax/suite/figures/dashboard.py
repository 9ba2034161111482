"""What a dashboard of runs shows: curves over steps and final scores, a line and a bar for each function."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multimax.suite.figures.style import figure, style_of
from multimax.suite.text_tables import Row

COLUMNS = 4
Band = tuple[int, float, float, float]  # step; mean, least and greatest of the seeds


@dataclass(frozen=True)
class Curve:
    """One logged key over the steps of one function's runs."""

    label: str
    function: str  # the one in attention; decides colour and line style
    key: str
    points: Sequence[Band]


def bands(seeds: Sequence[Mapping[int, float]]) -> list[Band]:
    """Mean, least and greatest value over the seeds, at every step that any seed has."""
    at: dict[int, list[float]] = defaultdict(list)
    for values in seeds:
        for step, value in values.items():
            at[step].append(value)
    return [(step, sum(values) / len(values), min(values), max(values)) for step, values in sorted(at.items())]


def dashboard_figure(
    title: str, sections: Mapping[str, Mapping[str, Sequence[Curve]]], final: tuple[str, Sequence[Curve]]
) -> tuple[Figure, list[Row]]:
    """Draw the panels of each section, and the bars of ``final`` after the first section's panels.

    Returns the figure, and a row for each point in it.
    """
    lines = [-(-(len(panels) + (number == 0)) // COLUMNS) for number, panels in enumerate(sections.values())]
    with figure(9.5, 1.75 * sum(lines) + 0.5) as drawing:
        parts = drawing.subfigures(len(sections), 1, squeeze=False, height_ratios=lines)[:, 0]
        for number, (part, (section, panels)) in enumerate(zip(parts, sections.items(), strict=True)):
            part.suptitle(section, fontsize=9, x=0.01, ha="left", weight="bold")
            grid = part.subplots(lines[number], COLUMNS, squeeze=False).flatten()
            for axes, (name, curves) in zip(grid, panels.items(), strict=False):
                draw_curves(axes, curves)
                axes.set_title(name, fontsize=8)
            if number == 0:
                draw_bars(grid[len(panels)], final[1])
                grid[len(panels)].set_title(final[0], fontsize=8)
            for axes in grid[len(panels) + (number == 0) :]:
                axes.set_visible(False)
            for axes in grid:
                axes.tick_params(labelsize=6)
        first = next(iter(next(iter(sections.values())).values()))
        handles = [parts[0].axes[0].lines[i] for i in range(len(first))]
        drawing.legend(handles, [c.label for c in first], loc="outside lower center", ncols=len(first), fontsize=8)
        drawing.suptitle(title, fontsize=10)
    rows: list[Row] = [
        {"section": section, "panel": name, "function": curve.label, "key": curve.key, "step": str(step)}
        | {"mean": f"{mean:.4g}", "least": f"{least:.4g}", "greatest": f"{greatest:.4g}"}
        for section, panels in {**sections, "Final metrics": {final[0]: final[1]}}.items()
        for name, curves in panels.items()
        for curve in curves
        for step, mean, least, greatest in curve.points
    ]
    return drawing, rows


def draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    several = len({curve.key for curve in curves}) > 1
    for curve in curves:
        style = style_of(curve.function)
        steps, means, least, greatest = zip(*curve.points, strict=True)
        axes.plot(steps, means, color=style.color, linestyle=style.line, linewidth=0.6 if several else 1.3)
        if not several:
            axes.fill_between(steps, least, greatest, color=style.color, alpha=0.15, linewidth=0)


def draw_bars(axes: Axes, curves: Sequence[Curve]) -> None:
    """A bar for each mean at the last step, with a line from the least to the greatest value."""
    for place, curve in enumerate(curves):
        _, mean, least, greatest = curve.points[-1]
        axes.bar(place, mean, color=style_of(curve.function).color, width=0.7)
        axes.plot([place, place], [least, greatest], color="0.5", linewidth=2)
    axes.set_xticks([])
