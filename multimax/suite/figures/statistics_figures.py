"""Figures that compare trained models: attention measures by layer, histograms of scores, learned modulators.

Each takes what ``multimax.suite.measures.attention_numbers.numbers`` returned for each run, by the
run's label.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, takewhile
from statistics import fmean
from textwrap import fill
from typing import Any

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multimax.suite.figures.style import figure, style_of
from multimax.suite.measures.streaming import WEIGHT_EDGES
from multimax.suite.text_tables import Row

PANELS = {
    "gini": "Gini index",
    "below": "weights below 0.001",
    "multi_modality": "multi-modality M",
    "entropy": "entropy, nats",
    "sparsity": "sparsity S",
}
BELOW = -3.0  # log10 of the threshold of "below", an edge of the bins of weights
TRANSLATION = {
    r"^encoder\.(\d+)\.attention$": r"enc \1",
    r"^decoder\.(\d+)\.attention$": r"dec \1",
    r"^decoder\.(\d+)\.cross_attention$": r"cross \1",
}
SCORE_STEP = 0.1  # width of a bin of scores
Found = Mapping[str, Mapping[str, Any]]
Made = tuple[Figure, list[Row]]


def attention_figure(of: Found) -> Made:
    """Each measure by layer: a dot per head and a bar for their mean. One row for each run, layer and head."""
    rows: list[Row] = [
        {"run": label, "attention": name, "head": str(head)}
        | {measure: number(values[head]) for measure, values in attention["means"].items()}
        | {"below 0.001": number(values_of(attention, "below")[0]), "rows": str(count)}
        for label, found in of.items()
        for name, attention in found["attentions"].items()
        for head, count in enumerate(attention["rows"])
    ]
    names = by_kind(next(iter(of.values()))["attentions"])
    with figure(len(PANELS) * max(2.4, 0.1 * len(names) * len(of)), 3.2) as drawing:
        panels = drawing.subplots(1, len(PANELS))
        for axes, measure in zip(panels, PANELS, strict=True):
            for i, (label, found) in enumerate(of.items()):
                style = style_of(found["function"])
                shift = 0.8 * ((i + 0.5) / len(of) - 0.5)
                for at, name in enumerate(names):
                    heads = values_of(found["attentions"][name], measure)
                    x, half = at + shift, 0.35 / len(of)
                    if len(heads) > 1:
                        look = {"color": style.color, "marker": style.marker, "linestyle": ""}
                        axes.plot([x] * len(heads), heads, **look, alpha=0.35, markersize=4)
                    line = {"color": style.color, "linewidth": 2, "label": label if at == 0 else None}
                    axes.plot([x - half, x + half], [mean(heads)] * 2, **line)
            axes.set_title(PANELS[measure], fontsize=9)
            axes.set_xticks(range(len(names)), short(names), rotation=90, fontsize=7)
        drawing.supxlabel(
            "attention; a dot for each head, a bar for their mean; softmax's S is at most 1/e by its definition",
            fontsize=9,
        )
        drawing.suptitle(fill(both_title(of), 150), fontsize=10, x=0.01, horizontalalignment="left")
        drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    return drawing, rows


def both_title(of: Found) -> str:
    """In how many attentions a run exceeds softmax in both the Gini index and M, as means over heads."""
    base = next((found["attentions"] for found in of.values() if found["function"] == "softmax"), None)
    if base is None:
        return ""

    def above(attention: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return all(mean(values_of(attention, m)) > mean(values_of(other, m)) for m in ("gini", "multi_modality"))

    counts = [
        f"{label} in {sum(above(found['attentions'][name], base[name]) for name in base)} of {len(base)}"
        for label, found in of.items()
        if found["function"] != "softmax" and found["attentions"].keys() == base.keys()
    ]
    return f"One seed each. Above softmax in both Gini index and M: {', '.join(counts)} attentions" if counts else ""


def mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def values_of(attention: Mapping[str, Any], measure: str) -> list[float]:
    """A measure by head, where it is defined; the share of small weights is over all heads together."""
    if measure == "below":
        bins = int((WEIGHT_EDGES < BELOW - 1e-3).sum())
        return [attention["tiny"] + sum(attention["weights"][:bins])]
    return [value for value in attention["means"][measure] if value is not None]


def by_kind(names: Iterable[str]) -> list[str]:
    """Names in the order of their kinds, such as self-attention before cross-attention, layer by layer."""
    names = list(names)
    kinds = list(dict.fromkeys(map(kind_of, names)))
    return sorted(names, key=lambda name: kinds.index(kind_of(name)))


def kind_of(name: str) -> str:
    return re.sub(r"\d+", "", name)


def histogram_figure(of: Found) -> Made:
    """Histograms of scores and weights: one row of panels per run, one line per attention."""
    rows: list[Row] = []
    lowest = min(attention["middle"][0] for found in of.values() for attention in found["attentions"].values())
    highest = max(attention["middle"][1] for found in of.values() for attention in found["attentions"].values())
    with figure(9, 0.6 + 2.4 * len(of)) as drawing:
        grid = drawing.subplots(len(of), 2, squeeze=False, sharex="col")
        for panels, (label, found) in zip(grid, of.items(), strict=True):
            attentions = found["attentions"]
            for (name, attention), line in zip(attentions.items(), lines(list(attentions)), strict=True):
                first = attention["scores_from"]
                edges = [first + SCORE_STEP * i for i in range(len(attention["scores"]) + 1)]
                for axes, kind, shares, at in (
                    (panels[0], "score", attention["scores"], edges),
                    (panels[1], "log10 weight", attention["weights"], WEIGHT_EDGES.tolist()),
                ):
                    axes.stairs(shares, at, linewidth=1.2, **line)
                    rows += [
                        {"run": label, "attention": name, "of": kind, "from": f"{a:.2f}", "to": f"{b:.2f}"}
                        | {"share": number(share)}
                        for a, b, share in zip(at, at[1:], shares, strict=False)
                    ]
                rows.append(
                    {"run": label, "attention": name, "of": "weight", "from": "0", "to": "1e-8"}
                    | {"share": number(attention["tiny"])}
                )
            panels[0].set_ylabel(f"{label}\nshare")
            for axes, first_of_column in zip(panels, grid[0], strict=True):
                axes.sharey(first_of_column)
        grid[0][0].set_title("a  Scores")
        grid[0][0].set_xlim(lowest, highest)
        grid[-1][0].set_xlabel("score")
        grid[0][1].set_title("b  Weights above 1e-8")
        grid[-1][1].set_xlabel("logarithm of the weight, base 10")
        shares = [
            f"{label} {100 * fmean(attention['tiny'] for attention in found['attentions'].values()):.1f}%"
            for label, found in of.items()
        ]
        drawing.suptitle(f"Weights of 1e-8 at most, not in panel b: {', '.join(shares)}", fontsize=10)
        legend_of_attentions(drawing, grid[0][1])
    return drawing, rows


def modulator_figure(of: Found) -> Made | None:
    """SegLU and its slope over the scores each attention met, and SegLU at the output; None without a modulator."""
    of = {label: found for label, found in of.items() if found["modulators"]}
    if not of:
        return None
    with figure(10, 0.6 + 2.6 * len(of)) as drawing:
        grid = drawing.subplots(len(of), 3, squeeze=False)
        for (curve, slope, output), (label, found) in zip(grid, of.items(), strict=True):
            names = by_kind(name for name in found["modulators"] if name != "output")
            for name, line in zip(names, lines(names), strict=True):
                draw_modulator(curve, slope, found["modulators"][name], **line)
            curve.axline((0, 0), slope=1, color="0.8", linewidth=1, zorder=0)
            slope.axhline(1, color="0.8", linewidth=1, zorder=0)
            if slope.get_ylim()[0] < 0:
                slope.axhspan(slope.get_ylim()[0], 0, color="0.93", zorder=0)  # a larger score weighs less
            output.set_visible("output" in found["modulators"])
            if "output" in found["modulators"]:
                draw_modulator(output, None, found["modulators"]["output"], color=style_of("multimax").color)
                output.axline((0, 0), slope=1, color="0.8", linewidth=1, zorder=0)
            curve.set_ylabel(f"{label}\nSegLU(score)")
        grid[0][0].set_title("a  Attention")
        grid[0][1].set_title("b  Slope; grey: below 0")
        grid[0][2].set_title("c  Output")
        for axes in grid[-1][:2]:
            axes.set_xlabel("score, where 99.9% of each lie")
        grid[-1][2].set_xlabel("score; those met are not recorded")
        drawing.suptitle(falling_title(of), fontsize=10)
        legend_of_attentions(drawing, grid[0][0])
    return drawing, [
        {"run": label, "attention": name, "head": str(head), "score": number(x), "modulated": number(y)}
        for label, found in of.items()
        for name, curve in found["modulators"].items()
        for head, line in enumerate(curve["modulated"])
        for x, y in zip(curve["scores"], line, strict=True)
    ]


def falling_title(of: Found) -> str:
    """In how many attentions a larger score weighs less than a smaller one.

    Only the central 99.9% of the scores met are considered.
    """
    counts = [
        (sum(falls(curve) for curve in curves), len(curves))
        for found in of.values()
        if (curves := [curve for name, curve in found["modulators"].items() if name != "output"])
    ]
    each = ", ".join(f"{falling} of {count}" for falling, count in counts)
    return f"Somewhere a larger score weighs less: {each} attentions, among 99.9% of the scores met"


def falls(curve: Mapping[str, Any]) -> bool:
    return any(numpy.diff(modulated).min() < 0 for modulated in curve["modulated"])


KINDS = {"attention": attention_figure, "histograms": histogram_figure, "modulators": modulator_figure}


def draw_modulator(
    axes: Axes, slope: Axes | None, curve: Mapping[str, Any], label: str | None = None, **line: Any
) -> None:
    """The curve of each set of parameters, and its slope beside it."""
    for modulated in curve["modulated"]:
        axes.plot(curve["scores"], modulated, label=label, **line)
        label = None
        if slope is not None:
            slope.plot(curve["scores"], numpy.gradient(modulated, curve["scores"]), **line)


def legend_of_attentions(drawing: Figure, axes: Axes) -> None:
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7, title="attention")


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def lines(names: Sequence[str]) -> list[dict[str, Any]]:
    """Line style of each attention: a dash pattern per kind, and dark to light over its layers.

    The colour map is safe for the colour-blind, and cut off before it becomes too light on white.
    """
    kinds = list(map(kind_of, names))
    strokes = dict(zip(dict.fromkeys(kinds), cycle(("-", "--", ":", "-."))))
    looks = []
    for i, (kind, label) in enumerate(zip(kinds, short(names), strict=True)):
        layer = kinds[:i].count(kind) / max(1, kinds.count(kind) - 1)
        looks.append(
            {"color": matplotlib.colormaps["cividis"](0.9 * layer), "linestyle": strokes[kind], "label": label}
        )
    return looks


def short(names: Sequence[str]) -> list[str]:
    """Labels of modules: without their common prefix and suffix, and "enc 0", "dec 0" or "cross 0" in translation."""
    parts = {name: name.split(".") for name in names if name != "output"}
    several = list(parts.values()) if len(parts) > 1 else []
    first, last = in_common(several), in_common([part[::-1] for part in several])
    result = [".".join(parts[name][first : len(parts[name]) - last]) if name in parts else name for name in names]
    for pattern, label in TRANSLATION.items():
        result = [re.sub(pattern, label, name) for name in result]
    return result


def in_common(several: Sequence[Sequence[str]]) -> int:
    """Length of the longest common prefix."""
    return sum(1 for _ in takewhile(lambda items: len(set(items)) == 1, zip(*several, strict=False)))
