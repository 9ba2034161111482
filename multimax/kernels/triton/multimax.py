"""MultiMax's row kernels in Triton: ``multimax_forward`` and ``multimax_backward`` of ``multimax.kernels.operators``.

Before a softmax, the constants of SegLU's first order cancel, so its two hinges become a minimum and a maximum, and the
``statistics`` are those of scores modulated up to that constant. The forward reads the scores and writes the weights;
the backward reads scores and gradient, recomputes the weights from the statistics and writes the gradient of the
scores. In half precision that is 10 bytes per element. Rows of several blocks are read twice, the second time mostly
from the cache. With dy = p (g - sum p g), a term of power 1 or 2 with direction s (-1 left, 1 right) and hinge h =
relu(s (x - r)) adds

    to dx: dy s t [h > 0] or 2 dy s t h,      to dr: the sum of minus that,      to dt: the sum of dy h or dy h^2.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from multimax.formulas.multimax import hinge_limit
from multimax.kernels import on_device
from multimax.kernels.triton.launch import (
    SUMMING,
    add_partial_sums,
    columns_of_block,
    exponential,
    load_live,
    rows_of,
    rows_of_tile,
    sums_by_thread,
)

FORWARD_BLOCK = 16384
BACKWARD_BLOCK = 4096


def multimax_forward(
    scores: Tensor, mask: Tensor | None, ranges: Tensor, ts: Tensor, powers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    scores = scores.contiguous()
    weights = torch.empty_like(scores)
    statistics = ranges.new_zeros(2, *scores.shape[:-1])
    if scores.numel():
        rows = rows_of(scores, mask, ranges.shape[0], FORWARD_BLOCK, 32 if scores.shape[-1] >= 512 else 16)
        with on_device(scores):
            _forward[rows.programs(), rows.heads](
                scores, ranges.contiguous(), ts.contiguous(), weights, *statistics, **shape_of(ranges.dtype, powers),
                **rows.options(),
            )  # fmt: skip
    return weights, statistics


def multimax_backward(
    grad: Tensor,
    scores: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    ranges: Tensor,
    ts: Tensor,
    powers: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    scores = scores.contiguous()
    grad_scores, grad_ranges, grad_ts = torch.empty_like(scores), torch.zeros_like(ranges), torch.zeros_like(ts)
    if scores.numel():
        rows = rows_of(scores, mask, ranges.shape[0], BACKWARD_BLOCK, 16 if scores.shape[-1] > 512 else 8)
        programs = rows.programs(summing=True)
        partial = ranges.new_empty(rows.heads, programs, 2, len(powers))
        with on_device(scores):
            _backward[programs, rows.heads](
                grad.contiguous(), scores, *statistics.contiguous(), ranges.contiguous(), ts.contiguous(), grad_scores,
                partial, **shape_of(ranges.dtype, powers),
                # There are many programs of one or two warps, and more of them run at once with fewer registers.
                **rows.options(max_registers=96 if rows.num_warps <= 2 else 255),
            )  # fmt: skip
            add_partial_sums[rows.heads,](partial, grad_ranges, grad_ts, programs, K=len(powers), **SUMMING)
    return grad_scores, grad_ranges, grad_ts


def shape_of(dtype: torch.dtype, powers: Sequence[int]) -> dict[str, Any]:
    """The kernels' arguments for SegLU's order and for the bounds on its results in the compute dtype."""
    largest = torch.finfo(dtype).max
    return {"FIRST": 1 in powers, "SECOND": 2 in powers, "LIMIT": hinge_limit(dtype), "LARGEST": largest}


@triton.jit
def hinge_parameters(parameter, head, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """The r or t of the first order, left and right, and of the second, left and right; 0 if absent."""
    K: tl.constexpr = 4 if FIRST and SECOND else 2
    first_left = 0.0
    first_right = 0.0
    second_left = 0.0
    second_right = 0.0
    if FIRST:
        first_left = tl.load(parameter + head * K)
        first_right = tl.load(parameter + head * K + 1)
    if SECOND:
        second_left = tl.load(parameter + head * K + K - 2)
        second_right = tl.load(parameter + head * K + K - 1)
    return first_left, first_right, second_left, second_right


@triton.jit
def _clamped(x, limit: tl.constexpr):
    """``x`` clamped to [-limit, limit]; NaN stays NaN."""
    if x.dtype == tl.float64:  # tl.clamp does not compile for it
        y = tl.maximum(x, -limit, propagate_nan=tl.PropagateNan.ALL)
        return tl.minimum(y, limit, propagate_nan=tl.PropagateNan.ALL)
    else:  # noqa: RET505 -- Triton compiles what follows a return
        return tl.clamp(x, -limit, limit, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def modulated(x, r, t, FIRST: tl.constexpr, SECOND: tl.constexpr, LIMIT: tl.constexpr, LARGEST: tl.constexpr):
    """SegLU up to a constant; as in the reference, its hinges and value are bounded."""
    bounded = _clamped(x, LIMIT)
    y = x
    if FIRST:
        y = y - t[0] * tl.minimum(bounded, r[0]) + t[1] * tl.maximum(bounded, r[1])
    if SECOND:
        left = tl.maximum(r[2] - bounded, 0.0)
        right = tl.maximum(bounded - r[3], 0.0)
        y = y + t[2] * left * left + t[3] * right * right
    return _clamped(y, LARGEST) if FIRST or SECOND else y


@triton.jit
def _modulated_live(
    x, live, r, t, FIRST: tl.constexpr, SECOND: tl.constexpr, LIMIT: tl.constexpr, LARGEST: tl.constexpr
):
    """``modulated``, with -inf for dead entries."""
    return tl.where(live, modulated(x, r, t, FIRST, SECOND, LIMIT, LARGEST), -float("inf"))


@triton.jit
def _forward(
    scores, ranges, ts, weights, tops, scales, mask, layout, count, n, heads, queries, tiles,
    FIRST: tl.constexpr, SECOND: tl.constexpr, LIMIT: tl.constexpr, LARGEST: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr, SURE: tl.constexpr, THREADS: tl.constexpr, VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = ranges.dtype.element_ty
    head = tl.program_id(1)
    r = hinge_parameters(ranges, head, FIRST, SECOND)
    t = hinge_parameters(ts, head, FIRST, SECOND)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row, exists = rows_of_tile(tile, head, count, heads, queries, ROWS, INDEX)
        start = row.to(tl.int64) * n
        if WHOLE:
            column, there, live = columns_of_block(0, row, exists, n, mask, layout, BLOCK, SURE, THREADS)
            x = load_live(scores + start + column, there, live, mask, 0.0).to(COMPUTE)
            y = _modulated_live(x, live, r, t, FIRST, SECOND, LIMIT, LARGEST)
            top = tl.max(y, 1)[:, None]
            top = tl.where(top == -float("inf"), 0.0, top)
            e = exponential(y - top)
            total = tl.sum(e, 1)[:, None]
            empty = total == 0
            scale = tl.where(empty, 0.0, 1 / tl.where(empty, 1.0, total))
            tl.store(weights + start + column, (e * scale).to(weights.dtype.element_ty), mask=there)
        else:
            tops_so_far = tl.full([ROWS, BLOCK], -LARGEST, COMPUTE)
            totals = tl.zeros([ROWS, BLOCK], COMPUTE)
            for first in range(0, n, BLOCK):
                column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                x = load_live(scores + start + column, there, live, mask, 0.0).to(COMPUTE)
                y = _modulated_live(x, live, r, t, FIRST, SECOND, LIMIT, LARGEST)
                higher = tl.maximum(tops_so_far, y)
                totals = totals * exponential(tops_so_far - higher) + exponential(y - higher)
                tops_so_far = higher
            top = tl.max(tops_so_far, 1)[:, None]
            total = tl.sum(totals * exponential(tops_so_far - top), 1)[:, None]
            empty = total == 0
            top = tl.where(empty, 0.0, top)
            scale = tl.where(empty, 0.0, 1 / tl.where(empty, 1.0, total))
            for first in range(0, n, BLOCK):
                column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                x = load_live(scores + start + column, there, live, mask, 0.0).to(COMPUTE)
                y = _modulated_live(x, live, r, t, FIRST, SECOND, LIMIT, LARGEST)
                p = exponential(y - top) * scale
                tl.store(weights + start + column, p.to(weights.dtype.element_ty), mask=there)
        tl.store(tops + row, top, mask=exists)
        tl.store(scales + row, scale, mask=exists)


@triton.jit
def through_modulator(
    x, dy, r, t, sums,
    FIRST: tl.constexpr, SECOND: tl.constexpr, LIMIT: tl.constexpr, THREADS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """dx, and the ``sums`` for the parameters with the terms of these entries added.

    dy sums to zero over a row, so the constants of the first order can be left out here too.
    """
    below, above, second_below, second_above, lows, highs, left_squares, right_squares = sums
    bounded = _clamped(x, LIMIT)
    dx = dy
    if FIRST:
        dy_below = tl.where(x < r[0], dy, 0.0)
        dy_above = tl.where(x > r[1], dy, 0.0)
        dx = dx - t[0] * dy_below + t[1] * dy_above
        below += sums_by_thread(dy_below, THREADS, VECTOR)
        above += sums_by_thread(dy_above, THREADS, VECTOR)
        lows += sums_by_thread(dy * tl.minimum(bounded, r[0]), THREADS, VECTOR)
        highs += sums_by_thread(dy * tl.maximum(bounded, r[1]), THREADS, VECTOR)
    if SECOND:
        left = tl.maximum(r[2] - bounded, 0.0)
        right = tl.maximum(bounded - r[3], 0.0)
        dy_left = dy * left
        dy_right = dy * right
        dx = dx - 2 * t[2] * dy_left + 2 * t[3] * dy_right
        second_below += sums_by_thread(dy_left, THREADS, VECTOR)
        second_above += sums_by_thread(dy_right, THREADS, VECTOR)
        left_squares += sums_by_thread(dy_left * left, THREADS, VECTOR)
        right_squares += sums_by_thread(dy_right * right, THREADS, VECTOR)
    return dx, (below, above, second_below, second_above, lows, highs, left_squares, right_squares)


@triton.jit
def _backward(
    grad, scores, tops, scales, ranges, ts, grad_scores, partial, mask, layout, count, n, heads, queries, tiles,
    FIRST: tl.constexpr, SECOND: tl.constexpr, LIMIT: tl.constexpr, LARGEST: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr, SURE: tl.constexpr, THREADS: tl.constexpr, VECTOR: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = ranges.dtype.element_ty
    head = tl.program_id(1)
    r = hinge_parameters(ranges, head, FIRST, SECOND)
    t = hinge_parameters(ts, head, FIRST, SECOND)
    zero = tl.zeros([ROWS, THREADS], COMPUTE)
    sums = (zero, zero, zero, zero, zero, zero, zero, zero)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row, exists = rows_of_tile(tile, head, count, heads, queries, ROWS, INDEX)
        start = row.to(tl.int64) * n
        top = tl.load(tops + row, mask=exists, other=0.0)
        scale = tl.load(scales + row, mask=exists, other=0.0)
        if WHOLE:
            column, there, live = columns_of_block(0, row, exists, n, mask, layout, BLOCK, SURE, THREADS)
            x = load_live(scores + start + column, there, live, mask, 0.0).to(COMPUTE)
            g = load_live(grad + start + column, there, live, mask, 0.0).to(COMPUTE)
            p = exponential(_modulated_live(x, live, r, t, FIRST, SECOND, LIMIT, LARGEST) - top) * scale
            dy = p * (g - tl.sum(p * g, 1)[:, None])
            dx, sums = through_modulator(x, dy, r, t, sums, FIRST, SECOND, LIMIT, THREADS, VECTOR)
            tl.store(grad_scores + start + column, dx.to(grad_scores.dtype.element_ty), mask=there)
        else:
            means = tl.zeros([ROWS, BLOCK], COMPUTE)
            for first in range(0, n, BLOCK):
                column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                x = load_live(scores + start + column, there, live, mask, 0.0).to(COMPUTE)
                g = load_live(grad + start + column, there, live, mask, 0.0).to(COMPUTE)
                means += exponential(_modulated_live(x, live, r, t, FIRST, SECOND, LIMIT, LARGEST) - top) * scale * g
            mean = tl.sum(means, 1)[:, None]
            for first in range(0, n, BLOCK):
                column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                x = load_live(scores + start + column, there, live, mask, 0.0).to(COMPUTE)
                g = load_live(grad + start + column, there, live, mask, 0.0).to(COMPUTE)
                p = exponential(_modulated_live(x, live, r, t, FIRST, SECOND, LIMIT, LARGEST) - top) * scale
                dx, sums = through_modulator(x, p * (g - mean), r, t, sums, FIRST, SECOND, LIMIT, THREADS, VECTOR)
                tl.store(grad_scores + start + column, dx.to(grad_scores.dtype.element_ty), mask=there)
    store_sums(partial, head * tl.num_programs(0) + tl.program_id(0), sums, t, FIRST, SECOND)


@triton.jit
def store_sums(partial, index, sums, t, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """Store the gradients of ranges and of ts, from their ``sums``, in row ``index`` of ``partial`` [.., 2, k]."""
    below, above, second_below, second_above, lows, highs, left_squares, right_squares = sums
    K: tl.constexpr = 4 if FIRST and SECOND else 2
    grad_ranges = partial + index * 2 * K
    grad_ts = grad_ranges + K
    if FIRST:
        tl.store(grad_ranges, t[0] * tl.sum(below))
        tl.store(grad_ranges + 1, -t[1] * tl.sum(above))
        tl.store(grad_ts, -tl.sum(lows))
        tl.store(grad_ts + 1, tl.sum(highs))
    if SECOND:
        tl.store(grad_ranges + K - 2, 2 * t[2] * tl.sum(second_below))
        tl.store(grad_ranges + K - 1, -2 * t[3] * tl.sum(second_above))
        tl.store(grad_ts + K - 2, tl.sum(left_squares))
        tl.store(grad_ts + K - 1, tl.sum(right_squares))
