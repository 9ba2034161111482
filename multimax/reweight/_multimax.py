"""MultiMax and its modulator as functions and a module; their formula is in ``multimax.formulas.multimax``."""

import torch
from torch import Tensor, nn

from multimax import kernels
from multimax.formulas import multimax as formulas
from multimax.formulas.multimax import Order, by_head, check_parameters, powers_of
from multimax.formulas.rows import along, check_arguments, compute_dtype
from multimax.formulas.torch_private import is_readable
from multimax.kernels import blocked_multimax, operators, row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._registry import register


def multimax(
    scores: Tensor, ranges: Tensor, ts: Tensor, dim: int = -1, *, mask: Tensor | None = None, order: Order = 2
) -> Tensor:
    """MultiMax over a dimension.

    Args:
        scores: floating point [..., n].
        ranges: r, [k], or [heads, k] for scores [..., heads, queries, keys], once ``dim`` has become the last; k = 2
            for order 1 and "second_only", 4 for order 2, or 2 there to share them between the orders.
        ts: t, [k] or [heads, k] likewise; k = 2 for order 1 and "second_only", 4 for order 2.
        dim: the dimension that is normalised.
        mask: bool, broadcastable to ``scores``, True where an entry is live; None: all are.
        order: 1, 2 (first and second) or "second_only".

    Returns:
        Weights in the shape and dtype of ``scores``.

    Raises:
        TypeError: ``scores`` not floating point, or ``mask`` not bool.
        ValueError: an unknown ``order``; ``ranges`` or ``ts`` that do not fit it or the scores; ``scores`` without
            that dimension; a ``mask`` that does not broadcast to them.
    """
    return along(dim, lambda x, live: _multimax(x, ranges, ts, live, order), scores, mask)


def _multimax(scores: Tensor, ranges: Tensor, ts: Tensor, mask: Tensor | None, order: Order) -> Tensor:
    powers = check_parameters(ranges, ts, order, scores.device)
    ranges, ts = by_head(scores, ranges, ts, powers)
    if kernels.path(scores) != "eager":
        return operators.multimax(scores, mask, ranges, ts, powers)
    if kernels.can_be_blocked(scores):
        return blocked_multimax.multimax(scores, mask, ranges, ts, powers)
    return formulas.weigh(scores, ranges, ts, mask, powers)


def seglu(scores: Tensor, ranges: Tensor, ts: Tensor, *, order: Order = 2) -> Tensor:
    """The segmented linear unit, element by element; arguments, result and errors as for ``multimax``."""
    check_arguments(scores, None)
    powers = check_parameters(ranges, ts, order, scores.device)
    return formulas.seglu(scores.to(compute_dtype(scores)), *by_head(scores, ranges, ts, powers), powers).to(
        scores.dtype
    )


@register("multimax")
class MultiMax(Reweighting):
    """``multimax`` as a module with learned parameters; its loss is the cross-entropy of the modulated scores.

    ``ranges`` and ``ts`` are 1-D, 2 or 4 numbers each, or one such set per head after the other.

    Args:
        order: 1, 2 (first and second) or "second_only".
        shared_ranges: at order 2, one pair of ranges for both orders.
        per_head: one set of parameters per head; otherwise, as in the paper, one for all heads.
        init: "normal", both from a truncated normal of standard deviation 0.02, as the authors do; or "zero", the same
            with ts = 0, so that training starts at softmax exactly (the ranges move only once the ts have).
        num_heads: heads of the attention that it serves; matters only with ``per_head``.

    Raises:
        ValueError: an unknown ``order`` or ``init``, or ``shared_ranges`` with a single order.
    """

    has_loss = has_parameters = True
    can_be_zero = False

    def __init__(
        self,
        order: Order = 2,
        shared_ranges: bool = False,
        per_head: bool = False,
        init: str = "normal",
        num_heads: int = 1,
    ) -> None:
        super().__init__()
        if init not in ("normal", "zero"):
            raise ValueError(f"init must be 'normal' or 'zero', got {init!r}")
        size = len(powers_of(order))
        if shared_ranges and size == 2:
            raise ValueError(f"shared_ranges needs order 2, got order {order!r}, which has one pair of ranges anyway")
        self.order = order
        self.init = init
        self.num_heads = num_heads if per_head else 1
        self.ranges = nn.Parameter(torch.empty(self.num_heads * (2 if shared_ranges else size)))
        self.ts = nn.Parameter(torch.empty(self.num_heads * size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Redraw the parameters as ``init`` says."""
        for parameter, is_drawn in ((self.ranges, True), (self.ts, self.init == "normal")):
            if not is_drawn or not is_readable(parameter):  # torch 2.15 looks for numbers that fake tensors do not have
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

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return multimax(scores, *self._by_head(), mask=mask, order=self.order)

    def row_kernel(self) -> row_kernels.MultiMax:
        return row_kernels.MultiMax(*self._by_head(), powers_of(self.order))

    def modulate(self, scores: Tensor) -> Tensor:
        return seglu(scores, *self._by_head(), order=self.order)

    def log_weights(self, scores: Tensor) -> Tensor:
        return self.modulate(scores.to(compute_dtype(scores)))
