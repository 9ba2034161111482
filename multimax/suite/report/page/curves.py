"""What a run logged, by metric, thinned to what a screen can show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from multimax.suite.runs import Run

POINTS = 200
"""Most points on a curve: the first of every k, and the last."""

Curve = tuple[list[int], list[float]]  # steps and values


@dataclass
class Curves:
    by_metric: dict[str, Curve] = field(default_factory=dict)
    step: int = 0  # the last that was logged
    steps_per_epoch: float | None = None


def read_curves(run: Run) -> Curves:
    """The curves of a run, finished or not. Raises ValueError for a line of its metrics that cannot be read."""
    result = Curves()
    for step, row, _ in run.rows():
        result.step = step
        if row.get("epoch"):
            result.steps_per_epoch = step / row["epoch"]
        for key, value in row.items():
            if key not in ("step", "epoch") and isinstance(value, int | float) and math.isfinite(value):
                steps, values = result.by_metric.setdefault(key, ([], []))
                steps.append(step)
                values.append(value)
    result.by_metric = {key: thinned(curve, POINTS) for key, curve in result.by_metric.items()}
    return result


def thinned(curve: Curve, most: int) -> Curve:
    """Every k-th point and the last one, at most ``most``: the same steps for all runs that logged the same steps."""
    steps, values = curve
    if len(steps) <= most:
        return curve
    stride = math.ceil((len(steps) - 1) / (most - 1))
    kept = [*range(0, len(steps) - 1, stride), len(steps) - 1]
    return [steps[i] for i in kept], [values[i] for i in kept]


def packed(curves: Sequence[Curves], budget: int = 1_000_000) -> tuple[list[str], list[Any], int]:
    """The names of all metrics, each run's steps and curves, and the largest number of points on a curve.

    A run is ``[[steps, ...], [[metric, steps, values], ...]]`` with indices for metric and steps; values have five
    digits. If all curves together have more points than ``budget``, each is thinned to fewer.
    """
    most = POINTS
    while most > 20 and sum(min(most, len(c[0])) for run in curves for c in run.by_metric.values()) > budget:
        most -= 20
    names = sorted({name for run in curves for name in run.by_metric})
    index = {name: i for i, name in enumerate(names)}
    runs = []
    for run in curves:
        axes: dict[tuple[int, ...], int] = {}
        packed_curves = []
        for name, curve in sorted(run.by_metric.items()):
            steps, values = thinned(curve, most)
            axis = axes.setdefault(tuple(steps), len(axes))
            packed_curves.append([index[name], axis, [short(value) for value in values]])
        runs.append([list(map(list, axes)), packed_curves])
    return names, runs, most


def short(value: float) -> float | int:
    """Five digits of a number, as an integer where it is one."""
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
