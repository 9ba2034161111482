"""MultiMax in tensor operations on blocks of rows that fit in a CPU's cache, for machines without the C++ kernel.

As one expression, every operation would pass over all of memory, and autograd would keep most of the results. Here they
stay in the cache, and the closed-form backward needs only the scores and the weights. Gradients of parameters are
summed block by block, with the same bits in every run.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from multimax import kernels
from multimax.formulas.multimax import hinge_limit, weigh
from multimax.formulas.torch_private import softmax_backward
from multimax.kernels.operators import gradients

# Entries in a block: larger blocks leave the cache, and with smaller ones call overhead dominates. This was the fastest
# on two cores with 1 MB of cache each and 32 MB shared.
BLOCK = 2**19


def multimax(scores: Tensor, mask: Tensor | None, ranges: Tensor, ts: Tensor, powers: tuple[int, ...]) -> Tensor:
    """Weights of ``scores``; arguments as for ``multimax.kernels.operators.multimax``, and differentiable like it."""
    weights: Tensor = _MultiMax.apply(scores, mask, ranges, ts, powers)
    return weights


class _MultiMax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, mask: Tensor | None, ranges: Tensor, ts: Tensor, powers: tuple[int, ...]
    ) -> Tensor:
        weights = torch.empty_like(scores, memory_format=torch.contiguous_format)
        scratch, hinges = _scratch(scores, 2, ranges.dtype), _hinges(ranges, ts, powers)
        for head, x, live, out in _blocks(len(ts), scores, mask, weights):
            _weigh(_live(x, live, ranges.dtype), live, hinges[head], scratch, out)
        ctx.powers = powers
        ctx.save_for_backward(scores, mask, ranges, ts, weights if weights.dtype == ranges.dtype else None)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        scores, mask, ranges, ts, weights = ctx.saved_tensors
        if torch.is_grad_enabled() or not kernels.can_be_blocked(grad):
            found = gradients(lambda x, r, t: weigh(x, r, t, mask, ctx.powers), (scores, ranges, ts), grad)
        else:
            found = _backward(grad, scores, mask, ranges, ts, ctx.powers, weights)
        grad_scores, grad_ranges, grad_ts = found
        return grad_scores, None, grad_ranges, grad_ts, None


def _backward(
    grad: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    ranges: Tensor,
    ts: Tensor,
    powers: tuple[int, ...],
    weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_scores = torch.empty_like(scores, memory_format=torch.contiguous_format)
    scratch, hinges = _scratch(scores, 4, ranges.dtype), _hinges(ranges, ts, powers)
    sums = []
    for head, x, live, g, p, out in _blocks(len(ts), scores, mask, grad, weights, grad_scores):
        x = _live(x, live, ranges.dtype)
        dy, height, through_hinge, slope = (part[: x.numel()].view(x.shape) for part in scratch)
        if p is None:
            p = _weigh(x, live, hinges[head], scratch, slope)
        softmax_backward(g.to(x.dtype), p, -1, x.dtype, grad_input=dy)
        slope, before = out if out.dtype == x.dtype else slope, dy
        for hinge in hinges[head]:
            torch.sub(*((hinge.r, x) if hinge.is_left else (x, hinge.r)), out=height).clamp_(0, hinge_limit(x.dtype))
            if hinge.power == 1:
                torch.ops.aten.threshold_backward.grad_input(dy, height, 0, grad_input=through_hinge)
                grad_t = torch.dot(dy.view(-1), height.view(-1))
            else:
                torch.mul(dy, height, out=through_hinge)
                grad_t = torch.dot(through_hinge.view(-1), height.view(-1))
            sums += [grad_t, through_hinge.sum() * -hinge.slope]
            before = torch.add(before, through_hinge, alpha=hinge.slope, out=slope)
        if slope is not out:
            out.copy_(slope)
    grad_ts, grad_ranges = torch.stack(sums).view(len(ts), -1, len(powers), 2).double().sum(1).to(ts.dtype).unbind(-1)
    return grad_scores, grad_ranges, grad_ts


class _Hinge(NamedTuple):
    r: Tensor
    t: float
    power: int
    is_left: bool

    @property
    def slope(self) -> float:
        """The slope of its term, divided by its height^(power - 1)."""
        return (-self.t if self.is_left else self.t) * self.power


def _hinges(ranges: Tensor, ts: Tensor, powers: tuple[int, ...]) -> list[list[_Hinge]]:
    """The hinges of each head."""
    return [
        [_Hinge(r, t, power, i % 2 == 0) for i, (r, t, power) in enumerate(zip(*of_head, powers, strict=True))]
        for of_head in zip(ranges, ts.tolist(), strict=True)
    ]


def _weigh(x: Tensor, live: Tensor | None, hinges: list[_Hinge], scratch: list[Tensor], out: Tensor) -> Tensor:
    """Weights of the block ``x`` into ``out``, which is returned."""
    y, height = (part[: x.numel()].view(x.shape) for part in scratch[:2])
    limit, largest = hinge_limit(x.dtype), torch.finfo(x.dtype).max
    before = x
    for hinge in hinges:
        low, high = (-limit, 0) if hinge.is_left else (0, limit)
        if hinge.power == 1:  # with r added to the height, a constant that cancels in the softmax
            r = hinge.r.item()
            torch.clamp(x, r + low, r + high, out=height)
            before = torch.add(before, height, alpha=hinge.slope, out=y)
        else:
            torch.sub(x, hinge.r, out=height).clamp_(low, high)
            before = torch.addcmul(before, height, height, value=hinge.t, out=y)
    y.clamp_(-largest, largest)
    if live is not None:
        y.masked_fill_(~live, -torch.inf)
    weights = out if out.dtype == x.dtype and out.is_contiguous() else height
    torch.softmax(y, -1, out=weights)
    if live is not None:
        weights.masked_fill_(~live, 0)  # rows without a live entry are NaN until here
    return weights if weights is out else out.copy_(weights)


def _live(x: Tensor, live: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A block in the compute dtype, with zeros at dead entries, which must not reach the sums."""
    return x.to(dtype) if live is None else x.to(dtype).where(live, 0)


def _scratch(scores: Tensor, count: int, dtype: torch.dtype) -> list[Tensor]:
    """``count`` flat buffers, each for one block, which has at least one row."""
    size = min(scores.numel(), max(BLOCK, scores.shape[-1]))
    return [torch.empty(size, dtype=dtype, device=scores.device) for _ in range(count)]


def _blocks(heads: int, scores: Tensor, mask: Tensor | None, *others: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """For each block: its head and its parts [.., .., n] of the tensors, some of which may be None.

    The blocks of a head come one after another, and each head has the same number.
    """
    n = scores.shape[-1]
    queries = scores.shape[-2] if heads > 1 else 1
    rows = max(1, BLOCK // n)
    at_once = max(1, rows // queries)
    live = None if mask is None else mask.expand(scores.shape)
    tensors = [t if t is None else t.reshape(-1, heads, queries, n) for t in (scores, live, *others)]
    groups = range(0, scores.numel() // (heads * queries * n), at_once)
    for head, first, row in product(range(heads), groups, range(0, queries, rows)):
        yield head, *(t if t is None else t[first : first + at_once, head, row : row + rows] for t in tensors)
