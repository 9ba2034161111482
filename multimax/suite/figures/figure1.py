"""Figure 1 of arXiv 2406.01189: sparse and multi-modal at once, on the scores (10, k, -1)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from multimax.suite.figures.style import STYLES, Style, figure, rounded, style_of
from multimax.suite.measures.three_scores import (
    ALPHA,
    Fit,
    Function,
    Points,
    at_alpha,
    at_temperature,
    functions,
    pareto_front,
    points,
)
from multimax.suite.text_tables import Row

K = (10.0, 8.0, 6.0, 4.0, 2.0)
TEMPERATURES = (1.0, 4.0, 8.0, 16.0, 32.0)
CURVE = torch.arange(-10, 101, dtype=torch.float64) / 10

RING: dict[str, Any] = {
    "marker": "o",
    "color": "0.45",
    "markerfacecolor": "none",
    "markersize": 13,
    "markeredgewidth": 0.8,
    "linewidth": 0,
    "label": "published point",
}


def figure1(multimax: Fit, k: Sequence[float], published: Mapping[str, Sequence[float]]) -> tuple[Figure, list[Row]]:
    """The figure, and everything it shows as rows. ``published`` gives M at each ``k`` for some functions."""
    rows: list[Row] = []
    named = functions(multimax)
    with figure(9.5, 7.6) as drawing:
        ((simplex, edge), (by_k, plane)) = drawing.subplots(2, 2)
        rows += draw_simplex(simplex)
        rows += draw_edge(edge, {name: rounded_points(function, K) for name, function in named.items()})
        rows += draw_by_k(by_k, named, k, published)
        rows += draw_plane(plane, named)
        drawing.legend(handles=legend(named), loc="outside lower center", ncols=4, handlelength=3)
    return drawing, rows


def idea(multimax: Fit) -> tuple[Figure, list[Row]]:
    """The two panels that show what MultiMax is about."""
    named = functions(multimax)
    with figure(9.5, 3.9) as drawing:
        edge, plane = drawing.subplots(1, 2)
        rows = draw_edge(edge, {name: rounded_points(function, K) for name, function in named.items()})
        rows += draw_plane(plane, named)
        edge.set_title("Of the scores 10, k and −1, how much weight k gets")
        edge.set_xlabel("weight of k (each mark: one k)")
        plane.set_title("Multi-modal (M) and sparse (S) at once")
        plane.set_xlabel("M, how evenly the relevant two are weighed")
        plane.set_ylabel("S, how little the third one is")
        drawing.legend(handles=legend(named)[:-1], loc="outside lower center", ncols=6, handlelength=2)
    return drawing, rows


def rounded_points(function: Function, k: Sequence[float] | torch.Tensor) -> Points:
    """``points`` rounded to four decimals, as in the CSV: processors differ in the later ones."""
    exact = points(function, k)
    return Points(rounded(exact.weights), rounded(exact.multi_modality), rounded(exact.sparsity))


def legend(names: Iterable[str]) -> list[Line2D]:
    lines = [
        Line2D([], [], **marker(style_of(name)), linestyle=style_of(name).line, label=label(name)) for name in names
    ]
    return [*lines, Line2D([], [], **RING)]


def label(name: str) -> str:
    """MultiMax's label says that it is fitted.

    Its points show what it can do, and reproduce nothing.
    """
    more = {"entmax": f", α = {ALPHA}", "multimax": ", fitted"}
    return style_of(name).label + more.get(name, "")


def row(panel: str, series: str, at: float, x: float, y: float) -> Row:
    """``at`` is the parameter along the series: k, a temperature or alpha."""
    return {"panel": panel, "series": series, "at": f"{at:.3f}", "x": f"{x:.4f}", "y": f"{y:.4f}"}


def draw_simplex(axes: Axes) -> list[Row]:
    """Softmax's path over k at several temperatures.

    On the lower edge -1 has no weight; from t = 4 on the path is off that edge.
    """
    axes.set_title("a  Softmax at temperatures t")
    height = math.sqrt(3) / 2
    axes.plot([0, 1, 0.5, 0], [0, 0, height, 0], color="0.7", linewidth=1)
    for x, y, text, side, below in (
        (0, 0, "all on 10", "center", "top"),
        (1, 0, "all on k", "center", "top"),
        (0.5, height, "all on −1", "center", "bottom"),
    ):
        axes.annotate(text, (x, y), (0, -6 if below == "top" else 4), textcoords="offset points", ha=side, va=below)
    rows = []
    for i, temperature in enumerate(TEMPERATURES):
        shade = str(0.12 * i)
        path = rounded(plane_of_simplex(rounded_points(at_temperature(temperature), CURVE).weights))
        marks = rounded(plane_of_simplex(rounded_points(at_temperature(temperature), K).weights))
        axes.plot(*path.T, color=shade)
        axes.plot(*marks.T, "o", color=shade, markersize=4)
        end = (float(marks[0, 0]), float(marks[0, 1]))
        lower = temperature == TEMPERATURES[0]
        axes.annotate(
            f"t = {temperature:g}", end, (6, -9 if lower else -3), textcoords="offset points", color=shade, fontsize=8
        )
        name = f"softmax t={temperature:g}"
        rows += [row("simplex", name, k, *xy) for k, xy in zip(CURVE.tolist(), path.tolist(), strict=True)]
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.margins(0.08, 0.1)
    return rows


def plane_of_simplex(weights: torch.Tensor) -> torch.Tensor:
    """Points [n, 2] of weights [n, 3] in a triangle of side 1 with its first two corners on the horizontal axis."""
    corners = torch.tensor([[0, 0], [1, 0], [0.5, math.sqrt(3) / 2]], dtype=weights.dtype)
    return weights @ corners


def draw_edge(axes: Axes, of: Mapping[str, Points]) -> list[Row]:
    """The half of the simplex's lower edge that k <= 10 can reach, once for each function."""
    axes.set_title("b  The lower edge: weight of k")
    rows = []
    for height, (name, found) in enumerate(of.items()):
        style, second = style_of(name), found.weights[:, 1].tolist()
        axes.axhline(-height, color="0.85", linewidth=1, zorder=0)
        look = {"color": style.color, "marker": style.marker, "markersize": style.size}
        axes.plot(second, [-height] * len(K), **look, linestyle="", clip_on=False)
        for x, text in merged(second).items():
            axes.annotate(text, (x, -height), (0, 6), textcoords="offset points", ha="center", fontsize=7.5)
        rows += [row("edge", name, k, x, -height) for k, x in zip(K, second, strict=True)]
    axes.set_yticks([-height for height in range(len(of))], [label(name) for name in of])
    axes.tick_params("y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(-0.02, 0.51)
    axes.set_ylim(0.6 - len(of), 0.6)
    axes.set_xlabel("weight of k (numbers: k)")
    return rows


def merged(values: Sequence[float]) -> dict[float, str]:
    """A label with the k of each value; values that are too close share one."""
    groups: dict[float, list[float]] = {}
    for k, value in sorted(zip(K, values, strict=True)):
        near = next((known for known in groups if abs(known - value) < 0.03), value)
        groups.setdefault(near, []).append(k)
    return {value: "–".join({f"{ks[0]:g}": 0, f"{ks[-1]:g}": 0}) for value, ks in groups.items()}


def draw_by_k(
    axes: Axes, named: Mapping[str, Function], read_at: Sequence[float], published: Mapping[str, Sequence[float]]
) -> list[Row]:
    axes.set_title("c  Multi-modality M at each k")
    curve = CURVE[CURVE >= 1]
    rows = []
    for name, function in named.items():
        style, by_k = style_of(name), rounded_points(function, curve).multi_modality
        marks = rounded_points(function, K).multi_modality
        axes.plot(curve, by_k, linestyle=style.line, color=style.color)
        axes.plot(K, marks, **marker(style), linewidth=0)
        rows += [row("multi-modality", name, k, k, m) for k, m in zip(curve.tolist(), by_k.tolist(), strict=True)]
    rings = [(name, k, m) for name, values in published.items() for k, m in zip(read_at, values, strict=True)]
    unlike = sorted({(k, m) for _, k, m in rings})
    axes.plot(*zip(*unlike, strict=True), **RING, clip_on=False, zorder=5)
    rows += [row("published", name, k, k, m) for name, k, m in rings]
    axes.set_xlabel("k")
    axes.set_ylabel("M")
    axes.set_xlim(1, 10.2)
    axes.set_ylim(-0.06, 1.06)
    return rows


def marker(style: Style) -> dict[str, Any]:
    """Sparsemax's marker is hollow and larger: 1.5-entmax has the same points, and is drawn inside it."""
    hollow = style is STYLES["sparsemax"]
    return {
        "marker": style.marker,
        "color": style.color,
        "markersize": style.size + 4 if hollow else style.size,
        "markerfacecolor": "none" if hollow else style.color,
    }


def draw_plane(axes: Axes, named: Mapping[str, Function]) -> list[Row]:
    """M against S, both averaged over the four k below 10."""
    axes.set_title("d  Both, averaged over k = 2 to 8")
    k = K[1:]
    temperatures = [2 ** (i / 20) for i in range(-20, 121)]
    alphas = [1 + i / 100 for i in range(101)]
    paths = {
        "softmax": {t: mean_point(rounded_points(at_temperature(t), k)) for t in temperatures},
        "entmax": {alpha: mean_point(rounded_points(at_alpha(alpha), k)) for alpha in alphas},
    }
    single = {name: mean_point(rounded_points(function, k)) for name, function in named.items()}
    everything = [*single.values(), *(xy for path in paths.values() for xy in path.values())]
    front = pareto_front(everything)
    axes.plot(
        *zip(*front, strict=True), drawstyle="steps-pre", color="0.85", linewidth=7, solid_capstyle="round", zorder=0
    )
    rows = [row("pareto", "front", 0, *xy) for xy in front]
    for name, path in paths.items():
        style = style_of(name)
        axes.plot(*zip(*path.values(), strict=True), linestyle=style.line, color=style.color, linewidth=1.2)
        rows += [row("plane", name, moved, *xy) for moved, xy in path.items()]
    for name, xy in single.items():
        axes.plot(*xy, **marker(style_of(name)), linewidth=0, clip_on=False)
        rows.append(row("plane", f"{name} itself", 0, *xy))
    for t in (1.0, 2.0, 4.0, 16.0):
        xy = mean_point(rounded_points(at_temperature(t), k))
        axes.plot(*xy, "o", color="black", markersize=3)
        beside = (8, -3) if t == 1 else (0, 6)
        axes.annotate(
            f"t = {t:g}", xy, beside, textcoords="offset points", fontsize=8, ha="left" if t == 1 else "center"
        )
    axes.annotate(
        "Pareto front,\nwith the fit", (single["multimax"][0], 0.5), (8, 0), textcoords="offset points", color="0.4"
    )
    axes.set_xlabel("M")
    axes.set_ylabel("S")
    axes.set_xlim(-0.03, 1.0)
    axes.set_ylim(-0.05, 1.08)
    return rows


def mean_point(of: Points) -> tuple[float, float]:
    return round(float(of.multi_modality.mean()), 4), round(float(of.sparsity.mean()), 4)
