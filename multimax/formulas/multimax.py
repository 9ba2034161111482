"""MultiMax: softmax behind SegLU, a learned modulator that suppresses small scores and keeps several large ones.

Zhou, Fritz, Keuper, "MultiMax: Sparse and Multi-Modal Attention Learning", ICML 2024, arXiv 2406.01189. Checked against
the expression of the authors' released code (github.com/ZhouYuxuanYX/MultiMax).

Every term is a function of the input, not of the running sum. In the paper's notation, the ranges r are (b1, d1, b2,
d2), t0 = 1 - t_b and t1 = t_d - 1. Order 1 has the first two terms, "second_only" the last two, and order 3 has two
more, with cubes, with which the authors' models did not train. The kernels have the terms of the first two orders.

Below, parameters are [heads, k], where heads is 1 or that of scores [..., heads, queries, keys], and k = len(powers):
one range and one t for each hinge, left and right in turn.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import hardtanh, relu

from multimax.formulas import softmax
from multimax.formulas.rows import check_floating, compute_dtype, over_live_entries, per_head
from multimax.formulas.torch_private import is_transformed


def seglu_formula(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
    return x + t[0] * relu(r[0] - x) + t[1] * relu(x - r[1]) + t[2] * relu(r[2] - x) ** 2 + t[3] * relu(x - r[3]) ** 2


def formula(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
    return torch.softmax(seglu_formula(x, r, t), -1)


Order = int | str

POWERS: dict[Order, tuple[int, ...]] = {1: (1, 1), 2: (1, 1, 2, 2), 3: (1, 1, 2, 2, 3, 3), "second_only": (2, 2)}


def weigh(scores: Tensor, ranges: Tensor, ts: Tensor, mask: Tensor | None, powers: tuple[int, ...]) -> Tensor:
    """Weights of ``scores``, in operations that torch can differentiate any number of times."""
    x = scores.to(compute_dtype(scores))
    if mask is not None:
        x = x.where(mask, 0)  # else dead entries would reach the parameters' gradients
    return over_live_entries(softmax.weigh, seglu(x, ranges, ts, powers), mask).to(scores.dtype)


def seglu(x: Tensor, ranges: Tensor, ts: Tensor, powers: tuple[int, ...]) -> Tensor:
    """``seglu_formula`` in the dtype of ``x`` and the parameters."""
    if is_transformed():
        return _SegLU.forward(x, ranges, ts, powers)
    modulated: Tensor = _SegLU.apply(x, ranges, ts, powers)
    return modulated


class _SegLU(torch.autograd.Function):
    """Keeps only its inputs for the backward."""

    @staticmethod
    def forward(x: Tensor, ranges: Tensor, ts: Tensor, powers: tuple[int, ...]) -> Tensor:
        y = x
        for h, t, _, power in _hinges(x, ranges, ts, powers):
            y = y + t * _raised(h, power)
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
        return *seglu_gradients(grad, x, ranges, ts, ctx.powers, ctx.needs_input_grad), None


def seglu_gradients(
    grad: Tensor,
    x: Tensor,
    ranges: Tensor,
    ts: Tensor,
    powers: tuple[int, ...],
    wanted: tuple[bool, ...] = (True, True, True),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients for ``x``, ``ranges`` and ``ts``; the parameters' are sums over all entries of their head."""
    grad_x, grad_ranges, grad_ts = grad, [], []
    for h, t, direction, power in _hinges(x, ranges, ts, powers):
        slope = direction * t * (h > 0) if power == 1 else power * direction * t * _raised(h, power - 1)
        through_hinge = grad * slope
        if wanted[0]:
            grad_x = grad_x + through_hinge
        if wanted[1]:
            grad_ranges.append(-_sum_by_head(through_hinge, len(ranges)))
        if wanted[2]:
            grad_ts.append(_sum_by_head(grad * _raised(h, power), len(ts)))
    return (
        grad_x if wanted[0] else None,
        torch.stack(grad_ranges, -1) if wanted[1] else None,
        torch.stack(grad_ts, -1) if wanted[2] else None,
    )


def _hinges(
    x: Tensor, ranges: Tensor, ts: Tensor, powers: tuple[int, ...]
) -> Iterator[tuple[Tensor, Tensor, int, int]]:
    """For each term: its hinge, its t, the hinge's direction (-1 left, 1 right) and its power."""
    for i, power in enumerate(powers):
        limit = hinge_limit(x.dtype, power)
        r, t = per_head("ranges", ranges[:, i], x), per_head("ts", ts[:, i], x)
        # hardtanh is clamp with slope zero at its ends, like relu.
        if i % 2 == 0:
            yield hardtanh(r - x, 0.0, limit), t, -1, power
        else:
            yield hardtanh(x - r, 0.0, limit), t, 1, power


def _raised(h: Tensor, power: int) -> Tensor:
    return h if power == 1 else h**power


def hinge_limit(dtype: torch.dtype, power: int = 2) -> float:
    """The bound on the hinges that keeps their powers times any sensible t finite; x itself is not bounded."""
    return float(torch.finfo(dtype).max ** (0.8 / max(power, 2)))


def has_kernel(powers: tuple[int, ...]) -> bool:
    """Whether the kernels compute hinges of these ``powers``."""
    return max(powers) <= 2


def _sum_by_head(terms: Tensor, heads: int) -> Tensor:
    if heads == 1:
        return terms.sum().reshape(1)
    # Not flatten, which is_grads_batched cannot batch.
    return terms.transpose(-3, 0).reshape(heads, terms.numel() // heads).sum(1)


def powers_of(order: Order) -> tuple[int, ...]:
    if not isinstance(order, int | str) or order not in POWERS:
        got = repr(order) if isinstance(order, int | str) else type(order).__name__
        raise ValueError(f"order must be 1, 2, 3 or 'second_only', got {got}")
    return POWERS[order]


def order_of(powers: tuple[int, ...]) -> Order:
    for order, of_order in POWERS.items():
        if of_order == powers:
            return order
    raise ValueError(f"powers must be one of {', '.join(map(str, POWERS.values()))}, got {powers}")


def check_parameters(ranges: Tensor, ts: Tensor, order: Order, device: torch.device) -> tuple[int, ...]:
    """The powers of ``order``; raises unless ``ranges`` and ``ts``, [k] or [heads, k], fit it and are on ``device``."""
    powers = powers_of(order)
    size = len(powers)
    for name, parameter, sizes in (("ts", ts, (size,)), ("ranges", ranges, (2, size))):
        check_floating(name, parameter, device)
        if parameter.dim() not in (1, 2) or parameter.shape[-1] not in sizes:
            k = " or ".join(map(str, sorted(set(sizes))))
            raise ValueError(
                f"{name} must be [k] or [heads, k] with k = {k} for order {order}, got {tuple(parameter.shape)}"
            )
    return powers


def by_head(scores: Tensor, ranges: Tensor, ts: Tensor, powers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The caller's ranges and ts as [heads, k] in the compute dtype; ``scores`` may be a query with as many heads."""
    dtype = compute_dtype(scores)
    ranges, ts = _rows_of_heads("ranges", ranges, scores).to(dtype), _rows_of_heads("ts", ts, scores).to(dtype)
    if ranges.shape[1] < len(powers):  # shared by the orders
        ranges = ranges.repeat(1, len(powers) // 2)
    if len(ranges) != len(ts):
        heads = max(len(ranges), len(ts))
        ranges, ts = ranges.expand(heads, -1), ts.expand(heads, -1)
    return ranges, ts


def _rows_of_heads(name: str, parameter: Tensor, scores: Tensor) -> Tensor:
    if parameter.dim() == 1:
        return parameter.unsqueeze(0)
    if len(parameter) != 1:
        per_head(name, parameter[:, 0], scores)  # raises for any other number of heads
    return parameter
