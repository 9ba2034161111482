"""Whether a change of a row's scores makes its weights sparser and more multi-modal at once, row by row.

The measures are M and S of ``measures.sparsity``, with the row's own threshold and the row's smallest softmax weight as
the reference of S. What is proved about them is in docs/theory.md, with tables of these numbers.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from multimax import reweight
from multimax.suite.measures.sparsity import multi_modality, sparsity

ROWS = 200_000
NONE = 1e-13  # changes of M or S below this do not count; rounding alone causes some of 1e-16
DROP = 1000.0  # a slope so steep that nothing below the breakpoint keeps any weight
Draw = Callable[[numpy.random.Generator, int], numpy.ndarray]


def some_stand_out(draw: numpy.random.Generator, count: int) -> numpy.ndarray:
    scores = draw.standard_normal((count, 32))
    scores[:, :4] += draw.normal(4, 1, (count, 4))
    return scores


SETTINGS: Mapping[str, Draw] = {
    "normal, n = 8": lambda draw, count: draw.standard_normal((count, 8)),
    "normal, n = 32": lambda draw, count: draw.standard_normal((count, 32)),
    "normal of deviation 3, n = 32": lambda draw, count: 3 * draw.standard_normal((count, 32)),
    "uniform, n = 16": lambda draw, count: draw.uniform(-2, 2, (count, 16)),
    "Student's t with 3 degrees, n = 32": lambda draw, count: draw.standard_t(3, (count, 32)),
    "exponential, n = 32": lambda draw, count: draw.exponential(1, (count, 32)),
    "exponential downwards, n = 32": lambda draw, count: -draw.exponential(1, (count, 32)),
    "normal, 4 of 32 higher by 4 ± 1": some_stand_out,
}
"""How scores are drawn; each setting gives an equal share of ROWS."""


def draw_rows(setting: str, count: int = ROWS // len(SETTINGS)) -> Tensor:
    """Scores [count, n], float64, the same on every machine."""
    seed = list(SETTINGS).index(setting)
    return torch.from_numpy(SETTINGS[setting](numpy.random.default_rng(seed), count))


def two_slopes(scores: Tensor, at: Tensor | float, below: float, above: float) -> Tensor:
    """SegLU of the first order with both breakpoints at ``at``: slope ``below`` under it and ``above`` over it."""
    x = scores - at
    return above * x.clamp(min=0) + below * x.clamp(max=0)


@dataclass(frozen=True)
class Gains:
    """Whether M and S rose, and whether they fell, for each row [rows] with something to trade."""

    m_rose: Tensor
    m_fell: Tensor
    s_rose: Tensor
    s_fell: Tensor

    @property
    def both(self) -> Tensor:
        return self.m_rose & self.s_rose

    @property
    def traded(self) -> Tensor:
        return (self.m_rose & self.s_fell) | (self.m_fell & self.s_rose)


def gains(scores: Tensor, threshold: Tensor, before: Tensor, after: Tensor) -> Gains:
    """What softmax of ``after`` gains over softmax of ``before``, where ``scores`` above the threshold are relevant.

    A row without a second relevant entry, or without an irrelevant one, has nothing to trade and is left out.
    """
    x = scores - threshold
    weights = [reweight.softmax(of) for of in (before, after)]
    m_before, m_after = (multi_modality(x, of, 0.0) for of in weights)
    s_before, s_after = (sparsity(x, of, 0.0) for of in weights)
    counted = ~(m_before.isnan() | s_before.isnan())
    m, s = (m_after - m_before)[counted], (s_after - s_before)[counted]
    return Gains(m > NONE, m < -NONE, s > NONE, s < -NONE)


def mean(scores: Tensor) -> Tensor:
    """The mean of each row, [rows, 1]."""
    return scores.mean(-1, keepdim=True)


def warmer_and_colder(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The scores over two temperatures of each row, log-uniform from 1/2 to 2, the warmer one first."""
    exponents = numpy.random.default_rng(0).uniform(-1, 1, (len(scores), 2))
    temperatures = torch.from_numpy(2.0**exponents).sort(-1, descending=True).values
    return scores / temperatures[:, :1], scores / temperatures[:, 1:]


def by_slopes(scores: Tensor, at: Tensor | float, pairs: Iterable[tuple[float, float]]) -> list[Tensor]:
    """For each pair of slopes, which rows gain both measures over softmax, the threshold being the row's mean."""
    return [gains(scores, mean(scores), scores, two_slopes(scores, at, *pair)).both for pair in pairs]


def with_offsets(scores: Tensor, deviations: float) -> Tensor:
    """Each row shifted by a normal number times ``deviations`` of a score, which softmax does not see."""
    offsets = numpy.random.default_rng(0).standard_normal((len(scores), 1))
    return scores + deviations * scores.std() * torch.from_numpy(offsets)
