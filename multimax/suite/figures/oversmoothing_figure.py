"""A figure of over-smoothing: how alike tokens are by layer when training ends, and by epoch."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multimax.suite.figures.style import figure, style_of
from multimax.suite.measures.oversmoothing import summary
from multimax.suite.text_tables import Row


@dataclass(frozen=True)
class Smoothing:
    """One run: its label, its attention function, its seed, and ``measured`` from its oversmoothing.json."""

    label: str
    function: str
    seed: int
    measured: Sequence[Mapping[str, Any]]


def oversmoothing_figure(runs: Sequence[Smoothing], title: str = "") -> tuple[Figure, list[Row]]:
    """Faint lines are runs, strong lines a function's mean over seeds. One row for each run, step and layer.

    If several epochs were measured for every run, a third panel shows the mean over layers at those
    epochs.
    """
    epochs = set.intersection(*({at["epoch"] for at in run.measured} for run in runs))
    over_time = len(epochs) > 1
    by_label = defaultdict(list)
    for run in runs:
        by_label[run.label].append(run)
    with figure(3.4 * (2 + over_time), 3.2) as drawing:
        panels = drawing.subplots(1, 2 + over_time)
        for group in by_label.values():
            for axes, name in zip(panels, ("patch_similarity", "mad"), strict=False):
                draw(axes, group[0], [dict(enumerate(run.measured[-1][name], 1)) for run in group])
            if over_time:
                courses = [
                    {at["epoch"]: summary(at)["patch_similarity"] for at in run.measured if at["epoch"] in epochs}
                    for run in group
                ]
                draw(panels[2], group[0], courses, joined=False)
        panels[0].set_title("a  Patch similarity, attention's output")
        panels[1].set_title("b  MAD, layer's output")
        for axes in panels[:2]:
            axes.set_xlabel("layer")
            axes.xaxis.get_major_locator().set_params(integer=True)
        if over_time:
            panels[2].set_title("c  Patch similarity, mean of layers")
            panels[2].set_xlabel(f"epoch: the {len(epochs)} that were measured of every run")
            panels[2].set_xticks(sorted(epochs))
        if title:
            drawing.suptitle(title, fontsize=10)
        drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(by_label))
    return drawing, [
        {"function": run.label, "seed": str(run.seed), "step": str(at["step"]), "epoch": f"{at['epoch']:g}"}
        | {"layer": str(layer + 1), "patch similarity": f"{similarity:.5f}", "MAD": f"{mad:.5f}"}
        for run in runs
        for at in run.measured
        for layer, (similarity, mad) in enumerate(zip(at["patch_similarity"], at["mad"], strict=True))
    ]


def draw(axes: Axes, run: Smoothing, lines: Sequence[Mapping[float, float]], joined: bool = True) -> None:
    """Draw one line per run of a function, and their mean.

    Unless they are ``joined``, there are only marks: nothing was measured in between.
    """
    style = style_of(run.function)
    faint, strong = ("-", style.line) if joined else ("", "")
    if len(lines) > 1:
        for line in lines:
            look: dict[str, Any] = {"linestyle": faint, "marker": "" if joined else "_", "color": style.color}
            axes.plot(list(line), list(line.values()), linewidth=0.8, alpha=0.35, **look)
    means = [fmean(line[x] for line in lines) for x in lines[0]]
    marks = {"marker": style.marker, "markersize": 0.7 * style.size, "label": run.label}
    axes.plot(list(lines[0]), means, color=style.color, linestyle=strong, **marks)
