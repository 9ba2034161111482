"""MultiMax: softmax behind SegLU, a learned modulator that suppresses small scores and draws large ones together.

Zhou, Fritz, Keuper, "MultiMax: Sparse and Multi-Modal Attention Learning", ICML 2024, arXiv 2406.01189. Checked against
the expression of the authors' released code (github.com/ZhouYuxuanYX/MultiMax):

    SegLU(x) = x + t0 relu(r0 - x) + t1 relu(x - r1) + t2 relu(r2 - x)^2 + t3 relu(x - r3)^2,      p = softmax(SegLU(x))

Every term is a function of the input, not of the running sum. In the paper's letters the ranges r are (b1, d1, b2, d2),
and t0 = 1 - t_b, t1 = t_d - 1. Backward, with dy = p (g - sum p g) from the softmax: dx = dy SegLU'(x), and each
parameter gets the sum, over all entries (of its head), of dy times SegLU's derivative by it.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from multimax import kernels
from multimax.kernels import blocked_multimax, operators, row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._registry import register
from multimax.reweight._rows import check_arguments, compute_dtype, over_live_entries, per_head

Order = int | str

# Powers of the hinges, a pair for the left and the right of the scores' range each; one t per hinge.
_POWERS: dict[Order, tuple[int, ...]] = {1: (1, 1), 2: (1, 1, 2, 2), "second_only": (2, 2)}


def multimax(scores: Tensor, ranges: Tensor, ts: Tensor, mask: Tensor | None = None, *, order: Order = 2) -> Tensor:
    """MultiMax over the last dimension.

    Args:
        scores: floating point [..., n].
        ranges: r, [k], or [heads, k] for scores [..., heads, queries, keys]; k = 2 for order 1 and "second_only", 4 for
            order 2, or 2 there to share them between the orders.
        ts: t, [k] or [heads, k] likewise; k = 2 for order 1 and "second_only", 4 for order 2.
        mask: bool, broadcastable to ``scores``, True where an entry is live; None: all are.
        order: 1, 2 (first and second) or "second_only".

    Returns:
        Weights in the shape and dtype of ``scores``.

    Raises:
        TypeError: ``scores`` not floating point, or ``mask`` not bool.
        ValueError: an unknown ``order``; ``ranges`` or ``ts`` that do not fit it or the scores; ``scores`` without a
            dimension; a ``mask`` that does not broadcast to them.
    """
    check_arguments(scores, mask)
    powers = _powers_of(order)
    _check_parameters(ranges, ts, powers, order)
    is_eager = kernels.path(scores) == "eager"
    if is_eager and not kernels.can_be_blocked(scores):
        return eager(scores, ranges, ts, mask, powers)
    by_rows = (blocked_multimax if is_eager else operators).multimax
    return by_rows(scores, mask, *operator_parameters(scores, ranges, ts, powers), powers)


def eager(scores: Tensor, ranges: Tensor, ts: Tensor, mask: Tensor | None, powers: tuple[int, ...]) -> Tensor:
    """``multimax`` by tensor operations, each of them differentiable any number of times."""
    x = scores.to(compute_dtype(scores))
    if mask is not None:
        x = x.where(mask, 0)  # whatever is there must not reach the sums for the parameters' gradients
    modulated = _SegLU.apply(x, ranges.to(x.dtype), ts.to(x.dtype), powers)
    return over_live_entries(partial(torch.softmax, dim=-1), modulated, mask).to(scores.dtype)


def gradients(
    grad: Tensor, scores: Tensor, mask: Tensor | None, ranges: Tensor, ts: Tensor, powers: tuple[int, ...]
) -> tuple[Tensor | None, ...]:
    """Those of ``eager`` by scores, ranges and ts, where they are wanted, to be differentiated again."""
    leaves = [tensor for tensor in (scores, ranges, ts) if tensor.requires_grad]
    weights = eager(scores, ranges, ts, mask, powers)
    found = iter(torch.autograd.grad(weights, leaves, grad, create_graph=True))
    return tuple(next(found) if tensor.requires_grad else None for tensor in (scores, ranges, ts))


def seglu(scores: Tensor, ranges: Tensor, ts: Tensor, *, order: Order = 2) -> Tensor:
    """The segmented linear unit, element by element; arguments, result and errors as for ``multimax``."""
    check_arguments(scores, None)
    powers = _powers_of(order)
    _check_parameters(ranges, ts, powers, order)
    x = scores.to(compute_dtype(scores))
    return _SegLU.apply(x, ranges.to(x.dtype), ts.to(x.dtype), powers).to(scores.dtype)


def _powers_of(order: Order) -> tuple[int, ...]:
    if order not in _POWERS:
        raise ValueError(f"order must be 1, 2 or 'second_only', got {order!r}")
    return _POWERS[order]


def _check_parameters(ranges: Tensor, ts: Tensor, powers: tuple[int, ...], order: Order) -> None:
    for name, parameter, allowed in (("ts", ts, {len(powers)}), ("ranges", ranges, {2, len(powers)})):
        if parameter.dim() not in (1, 2) or parameter.shape[-1] not in allowed:
            sizes = " or ".join(map(str, sorted(allowed)))
            raise ValueError(
                f"{name} must be [k] or [heads, k] with k = {sizes} for order {order}, got {tuple(parameter.shape)}"
            )


def operator_parameters(scores: Tensor, ranges: Tensor, ts: Tensor, powers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Ranges and ts as the operators take them for ``scores``, or for a query with as many heads: [heads or 1, k]."""
    ranges, ts = (_rows_of_heads(p, scores).to(compute_dtype(scores)) for p in (ranges, ts))
    if ranges.shape[-1] < len(powers):
        ranges = torch.cat([ranges, ranges], -1)
    if ranges.shape[0] != ts.shape[0]:
        heads = max(ranges.shape[0], ts.shape[0])
        ranges, ts = ranges.expand(heads, -1), ts.expand(heads, -1)
    return ranges, ts


def _rows_of_heads(parameter: Tensor, scores: Tensor) -> Tensor:
    """A parameter, [k] or [heads, k], as [1, k] or [heads, k]."""
    if parameter.dim() == 1:
        return parameter.unsqueeze(0)
    if parameter.shape[0] != 1:
        per_head(parameter[:, 0], scores)  # which refuses other numbers of heads
    return parameter


class _SegLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, ranges: Tensor, ts: Tensor, powers: tuple[int, ...]) -> Tensor:
        y = x
        for h, t, _, power in _hinges(x, ranges, ts, powers):
            y = y + (t * h if power == 1 else t * h * h)
        largest = torch.finfo(x.dtype).max
        return y.clamp(-largest, largest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.powers = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        x, ranges, ts = ctx.saved_tensors
        needs_x, needs_ranges, needs_ts, _ = ctx.needs_input_grad
        grad_x = grad
        grad_ranges = [grad.new_zeros(ranges.shape[:-1]) for _ in range(ranges.shape[-1])]
        grad_ts = []
        for i, (h, t, direction, power) in enumerate(_hinges(x, ranges, ts, ctx.powers)):
            slope = direction * t * (h > 0) if power == 1 else 2 * direction * t * h
            through_hinge = grad * slope
            if needs_x:
                grad_x = grad_x + through_hinge
            if needs_ranges:
                shared = i % ranges.shape[-1]
                grad_ranges[shared] = grad_ranges[shared] - _sum_to(through_hinge, ranges)
            if needs_ts:
                grad_ts.append(_sum_to(grad * h if power == 1 else grad * h * h, ts))
        return (
            grad_x if needs_x else None,
            torch.stack(grad_ranges, -1) if needs_ranges else None,
            torch.stack(grad_ts, -1) if needs_ts else None,
            None,
        )


def _hinges(x: Tensor, ranges: Tensor, ts: Tensor, powers: tuple[int, ...]) -> Any:
    """For each term its hinge, its t, the hinge's direction along x (-1 left, 1 right) and its power."""
    limit = blocked_multimax.hinge_limit(x.dtype)  # of the hinges; x itself is not bounded
    for i, power in enumerate(powers):
        r = per_head(ranges[..., i % ranges.shape[-1]], x)
        t = per_head(ts[..., i], x)
        if i % 2 == 0:
            yield (r - x).clamp(0, limit), t, -1, power
        else:
            yield (x - r).clamp(0, limit), t, 1, power


def _sum_to(terms: Tensor, parameter: Tensor) -> Tensor:
    """Sum over all entries, or over all entries of each head where ``parameter`` is [heads, k]."""
    if parameter.dim() == 1:
        return terms.sum()
    if parameter.shape[0] == 1:
        return terms.sum().reshape(1)
    return terms.transpose(-3, 0).flatten(1).sum(1)


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

    positive = has_loss = True

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
        size = len(_powers_of(order))
        if shared_ranges and size == 2:
            raise ValueError(f"shared_ranges needs order 2, got order {order!r}, which has one pair of ranges anyway")
        self.order = order
        self.init = init
        self.num_heads = num_heads if per_head else 1
        self.ranges = nn.Parameter(torch.empty(self.num_heads * (2 if shared_ranges else size)))
        self.ts = nn.Parameter(torch.empty(self.num_heads * size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as ``init`` says."""
        nn.init.trunc_normal_(self.ranges, std=0.02)
        if self.init == "zero":
            nn.init.zeros_(self.ts)
        else:
            nn.init.trunc_normal_(self.ts, std=0.02)

    def extra_repr(self) -> str:
        sizes = f"{self.ranges.numel()} ranges and {self.ts.numel()} ts"
        return f"order={self.order}, num_heads={self.num_heads}, {sizes}"

    def _by_head(self) -> tuple[Tensor, Tensor]:
        if self.num_heads == 1:
            return self.ranges, self.ts
        return self.ranges.unflatten(0, (self.num_heads, -1)), self.ts.unflatten(0, (self.num_heads, -1))

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return multimax(scores, *self._by_head(), mask, order=self.order)

    def row_kernel(self) -> row_kernels.MultiMax:
        return row_kernels.MultiMax(*self._by_head(), _powers_of(self.order))

    def modulate(self, scores: Tensor) -> Tensor:
        return seglu(scores, *self._by_head(), order=self.order)

    def log_weights(self, scores: Tensor) -> Tensor:
        return self.modulate(scores.to(compute_dtype(scores)))
