"""Modulators, which bend each score before a normaliser. MultiMax is softmax behind SegLU.

    SegLU(x) = x + t0 relu(r0 - x) + t1 relu(x - r1) + ...      learned: ``multimax.formulas.multimax``
    ELU(x) = x where x > 0, else a (exp(x) - 1)                 Clevert et al. 2016, arXiv 1511.07289
    SiLU(x) = x sigmoid(x)                                      Elfwing et al. 2018, arXiv 1702.03118
    SoftCap(x) = c tanh(x / c)                                  Gemma 2, 2024, arXiv 2408.00118, with c = 50

``create(name, modulator=...)`` puts one before any function.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimax.formulas import multimax as formulas
from multimax.formulas.multimax import Order, by_head, check_parameters, powers_of
from multimax.formulas.rows import (
    check_arguments,
    check_bool,
    check_count,
    check_floating,
    check_number,
    compute_dtype,
)
from multimax.formulas.torch_private import is_readable


class Modulator(nn.Module):
    """An elementwise function of the scores that keeps shape and dtype.

    Attributes:
        monotone: whether it keeps the order of the scores, whatever its parameters.
        bounded: whether its values are bounded, whatever its parameters.
        has_parameters: whether there is something to train.
    """

    monotone: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    has_parameters: ClassVar[bool] = False

    def __init__(self) -> None:  # no *args as in nn.Module: the options of a subclass are read from its signature
        super().__init__()

    def forward(self, scores: Tensor) -> Tensor:
        """The scores that the normaliser gets."""
        raise NotImplementedError


class Hinges(nn.Module):
    """The parameters of SegLU: ``ranges`` and ``ts``, each 1-D with k numbers, or k for each head in turn.

    Args:
        order: 1, 2 (first and second), 3 (first to third) or "second_only".
        shared_ranges: at orders 2 and 3, one pair of ranges for all orders.
        per_head: one set of parameters per head; otherwise, as in the paper, one for all heads.
        init: "normal", both from a truncated normal of standard deviation 0.02, as the authors do; or "zero", the same
            but with ts = 0, so that training starts exactly at the identity (the ranges move once the ts have).
        num_heads: heads of the attention it serves; only used with ``per_head``.

    Raises:
        TypeError, ValueError: an option that does not fit, or ``shared_ranges`` with a single order.
    """

    def __init__(
        self,
        order: Order = 2,
        shared_ranges: bool = False,
        per_head: bool = False,
        init: str = "normal",
        num_heads: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(init, str) or init not in ("normal", "zero"):
            got = repr(init) if isinstance(init, str) else type(init).__name__
            raise ValueError(f"init must be 'normal' or 'zero', got {got}")
        check_bool("shared_ranges", shared_ranges)
        check_bool("per_head", per_head)
        check_count("num_heads", num_heads)
        size = len(powers_of(order))
        if shared_ranges and size == 2:
            raise ValueError(f"shared_ranges needs order 2 or 3, got order {order!r}, which has one pair anyway")
        self.order = order
        self.init = init
        self.num_heads = num_heads if per_head else 1
        self.ranges = nn.Parameter(torch.empty(self.num_heads * (2 if shared_ranges else size)))
        self.ts = nn.Parameter(torch.empty(self.num_heads * size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters again, as ``init`` says."""
        for parameter, is_drawn in ((self.ranges, True), (self.ts, self.init == "normal")):
            if not is_drawn or not is_readable(parameter):  # torch 2.15 would read the values, which fake tensors lack
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=0.02)

    def extra_repr(self) -> str:
        sizes = f"{self.ranges.numel()} ranges and {self.ts.numel()} ts"
        return f"order={self.order}, num_heads={self.num_heads}, {sizes}"

    def _by_head(self) -> tuple[Tensor, Tensor]:
        if self.num_heads == 1:
            return self.ranges, self.ts
        return self.ranges.unflatten(0, (self.num_heads, -1)), self.ts.unflatten(0, (self.num_heads, -1))


def seglu(scores: Tensor, ranges: Tensor, ts: Tensor, *, order: Order = 2) -> Tensor:
    """The segmented linear unit, elementwise; arguments, result and errors as for ``multimax``."""
    check_arguments(scores, None)
    powers = check_parameters(ranges, ts, order, scores.device)
    return formulas.seglu(scores.to(compute_dtype(scores)), *by_head(scores, ranges, ts, powers), powers).to(
        scores.dtype
    )


class SegLU(Hinges, Modulator):
    __doc__ = f"""``seglu`` with learned parameters. {Hinges.__doc__}"""

    has_parameters = True

    def forward(self, scores: Tensor) -> Tensor:
        return seglu(scores, *self._by_head(), order=self.order)


class ELU(Modulator):
    """Exponential linear unit: no score is below -``alpha``, where ``alpha`` is above 0."""

    monotone = True

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        check_number("alpha", alpha, above=0)
        self.alpha = float(alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"

    def forward(self, scores: Tensor) -> Tensor:
        check_floating("scores", scores)
        return F.elu(scores, self.alpha)


class SiLU(Modulator):
    """Sigmoid linear unit: low scores rise towards 0, and the order of those below -1.28 is reversed."""

    def forward(self, scores: Tensor) -> Tensor:
        check_floating("scores", scores)
        return F.silu(scores)


class SoftCap(Modulator):
    """Soft-capping: all scores are between -``cap`` and ``cap``, which is above 0."""

    monotone = bounded = True

    def __init__(self, cap: float = 50.0) -> None:
        super().__init__()
        check_number("cap", cap, above=0)
        self.cap = float(cap)

    def extra_repr(self) -> str:
        return f"cap={self.cap}"

    def forward(self, scores: Tensor) -> Tensor:
        check_floating("scores", scores)
        return self.cap * torch.tanh(scores / self.cap)


MODULATORS: dict[str, type[Modulator]] = {"elu": ELU, "seglu": SegLU, "silu": SiLU, "softcap": SoftCap}
