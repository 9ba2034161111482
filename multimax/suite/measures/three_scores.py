"""What a function makes of the three scores (10, k, -1) of Figure 1 of arXiv 2406.01189, as k grows towards 10.

Two scores are relevant and one is not, so a good function keeps the second and drops the third.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

from multimax import reweight
from multimax.suite.measures.sparsity import multi_modality, sparsity

ALPHA = 1.25  # entmax's, between softmax and 1.5-entmax
EPS = 0.0  # the threshold of relevance; any value between -1 and the least k gives the same

Function = Callable[[Tensor], Tensor]


def at_temperature(temperature: float) -> Function:
    return lambda scores: reweight.softmax(scores / temperature)


def at_alpha(alpha: float) -> Function:
    return lambda scores: reweight.entmax(scores, alpha)


@dataclass(frozen=True)
class Points:
    """Weights [n, 3] of (10, k, -1), multi-modality M [n] and sparsity S [n] for n values of k, in float64."""

    weights: Tensor
    multi_modality: Tensor
    sparsity: Tensor


def three_scores(k: Sequence[float] | Tensor) -> Tensor:
    """(10, k, -1) for each k, float64 [n, 3]."""
    second = torch.as_tensor(k, dtype=torch.float64)
    return torch.stack([torch.full_like(second, 10), second, torch.full_like(second, -1)], -1)


def points(function: Function, k: Sequence[float] | Tensor) -> Points:
    """Evaluate ``function`` at each k, with the figure's conventions for M and S."""
    scores = three_scores(k)
    with torch.no_grad():
        weights = function(scores)
    return Points(weights, multi_modality(scores, weights, EPS), sparsity(scores, weights, EPS))


@dataclass(frozen=True)
class Fit:
    """Parameters [4] each, float64, and the largest distance from the published weights that is left."""

    ranges: Tensor
    ts: Tensor
    residual: float

    def __call__(self, scores: Tensor) -> Tensor:
        return reweight.softmax(reweight.seglu(scores, self.ranges, self.ts))


def fit_multimax(k: Sequence[float], largest: Sequence[float], second: Sequence[float]) -> Fit:
    """Eight parameters with which MultiMax gives 10 and k their published weights, and -1 next to nothing.

    The parameters behind the published points are not published, and the points do not determine eight numbers. Of
    those that fit, these are small, by a weak penalty on their squares. They show what MultiMax does at these scores,
    and say nothing reliable about others.
    """
    scores = three_scores(k)
    published = torch.tensor([largest, second], dtype=torch.float64).T
    read_to = 0.003  # how precisely the points could be read

    def residuals(parameters: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
        ranges, ts = torch.from_numpy(parameters).split(4)
        weights = Fit(ranges, ts, 0.0)(scores)
        irrelevant = 1 - sparsity(scores, weights, EPS)
        misfit = torch.cat([(weights[:, :2] - published).flatten(), irrelevant]) / read_to
        return numpy.concatenate([misfit.numpy(), 0.02 * parameters])

    start = numpy.array([2.0, 0.0, 2.0, 5.0, -1.0, -0.5, -1.0, -0.02])
    found = least_squares(residuals, start, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    # Beyond the ninth digit the optimum depends on the processor, and the figure would with it.
    ranges, ts = torch.from_numpy(found.x.round(6)).split(4)
    weights = Fit(ranges, ts, 0.0)(scores)
    return Fit(ranges, ts, float((weights[:, :2] - published).abs().max()))


def functions(multimax: Fit) -> dict[str, Function]:
    """The functions of the figure, by registered name."""
    return {
        "softmax": reweight.softmax,
        "evsoftmax": reweight.evsoftmax,
        "sparsemax": reweight.sparsemax,
        "entmax15": reweight.entmax15,
        "entmax": at_alpha(ALPHA),
        "multimax": multimax,
    }


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other equals or exceeds in both coordinates and exceeds in one, by the first coordinate."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points), reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front[::-1]
