"""Defects in released code that change or destroy results, measured next to the functions here.

The authors' code is not a dependency: its behaviour is reimplemented below from reading it
(github.com/ZhouYuxuanYX/MultiMax, github.com/sisl/EvSoftmax). The entmax package is the installed one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import entmax
import torch
from torch import Tensor

from multimax import reweight

ROWS, LENGTH = 1000, 64
OUTCOME = "outcome"


@dataclass(frozen=True)
class Defect:
    """One line of the table: ``released`` and ``here`` are the same measurement, of each."""

    code: str
    what: str
    measured: str
    released: str
    here: str


def defects() -> Iterator[Defect]:
    """Each defect, measured on the same draws every time."""
    yield from masked_mean()
    yield from modulated_mask()
    yield from entmax_package()


def masked_scores() -> tuple[Tensor, Tensor]:
    """Standard normal scores [ROWS, LENGTH] and a mask of one to LENGTH - 1 live entries in each row."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(ROWS, LENGTH, generator=generator)
    live = torch.randint(1, LENGTH, (ROWS, 1), generator=generator)
    return scores, torch.arange(LENGTH) < live


def released_evsoftmax(scores: Tensor) -> Tensor:
    """Ev-softmax whose mean includes the whole row, with whatever stands for the mask in it."""
    kept = (scores >= scores.mean(-1, keepdim=True)).float()
    weights = kept * (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def masked_mean() -> Iterator[Defect]:
    """A mask among the scores drags the mean of ev-softmax below every live score."""
    scores, mask = masked_scores()
    softmax = reweight.softmax(scores, mask=mask)
    here = reweight.evsoftmax(scores, mask=mask)
    for fill in (-torch.inf, -1e4):
        released = released_evsoftmax(scores.masked_fill(~mask, fill))
        for measured, of in (
            ("live weights that are zero", lambda p: f"{(p[mask] == 0).float().mean():.1%}"),
            ("largest difference from softmax", lambda p: f"{(p - softmax).abs().max():.3f}"),
        ):
            yield Defect("ev-softmax", f"the mask is {fill:g} among the scores", measured, of(released), of(here))


def modulated_mask() -> Iterator[Defect]:
    """SegLU multiplies the infinities of a mask that is added to the scores."""
    scores, mask = masked_scores()
    attend = reweight.create("multimax")
    assert isinstance(attend, reweight.MultiMax)
    with torch.no_grad():
        attend.ts.fill_(0.02)  # the size of the authors' initial values
        attend.ranges.zero_()
        t, x = attend.ts, scores.masked_fill(~mask, -torch.inf)
        segments = t[0] * (-x).relu() + t[1] * x.relu() + t[2] * (-x).relu() ** 2 + t[3] * x.relu() ** 2
        yield Defect(
            "MultiMax",
            "the mask is -inf among the scores when they are modulated",
            OUTCOME,
            outcome(torch.softmax, x + segments, -1),
            outcome(attend, scores, mask),
        )


def entmax_package() -> Iterator[Defect]:
    """The entmax package: half precision, empty rows, alpha = 1 and soft targets."""
    name = f"entmax {version('entmax')}"
    generator = torch.Generator().manual_seed(0)
    wide = (100 * torch.randn(ROWS, LENGTH, generator=generator)).bfloat16()
    yield Defect(
        name,
        "entmax_bisect in bfloat16, alpha = 1.9, scores of deviation 100",
        OUTCOME,
        outcome(entmax.entmax_bisect, wide, 1.9),
        outcome(reweight.entmax, wide, 1.9),
    )
    scores = torch.randn(ROWS, LENGTH, generator=generator)
    softmax = scores.softmax(-1)
    yield Defect(
        name,
        "entmax_bisect at alpha = 1, the limit that is softmax",
        "largest difference from softmax",
        f"{(entmax.entmax_bisect(scores, 1.0) - softmax).abs().max():.3f}",
        f"{(reweight.entmax(scores, 1.0) - softmax).abs().max():.3f}",
    )
    nothing = torch.zeros(1, LENGTH, dtype=torch.bool)
    for function, theirs, ours in (
        ("sparsemax", entmax.sparsemax, reweight.sparsemax),
        ("entmax15", entmax.entmax15, reweight.entmax15),
    ):
        yield Defect(
            name,
            f"{function} of a row without a live entry",
            OUTCOME,
            outcome(theirs, torch.full((1, LENGTH), -torch.inf)),
            outcome(partial(ours, mask=nothing), scores[:1]),
        )
    for function, loss in (("sparsemax", entmax.sparsemax_loss), ("entmax15", entmax.entmax15_loss)):
        yield Defect(
            name,
            f"loss of {function} with soft targets: label smoothing, mixup",
            OUTCOME,
            outcome(loss, scores, softmax),
            outcome(reweight.create(function).loss, scores, softmax),
        )


def outcome(function: Callable[..., Tensor], *arguments: Any) -> str:
    """How a call ends: with numbers, with zeros, with NaN or with an exception."""
    try:
        result = function(*arguments)
    except RuntimeError as error:
        return type(error).__name__
    if result.isnan().any():
        return "NaN"
    return "zeros" if not result.any() else "numbers"
