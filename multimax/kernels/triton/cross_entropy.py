"""Losses of rows of logits and, written over the logits, their gradients, for ``linear_cross_entropy`` on a GPU.

A program reads its row twice: once for the largest modulated logit y and the sum of the exponentials, once for the
gradient. With the row's target probabilities q, their sum M and the weight w of its loss,

    loss = M logsumexp(y) - sum_j q_j y_j,      dy = w (M softmax(y) - q),      dx = dy SegLU'(x).

M is one for a class index. SegLU's constants cancel in both, as before a softmax. In half precision this reads four
bytes and writes two per logit; everything else is one value per row.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from multimax.kernels import on_device
from multimax.kernels.triton.launch import exponential
from multimax.kernels.triton.multimax import hinge_parameters, modulated, shape_of, store_sums, through_modulator

WARPS = 8
COLUMNS = 8  # of a block, per thread


def cross_entropy(
    logits: Tensor,
    v: int,
    targets: Tensor,
    counts: Tensor,
    ranges: Tensor | None,
    ts: Tensor | None,
    powers: Sequence[int],
    label_smoothing: float,
    with_gradients: bool,
) -> tuple[Tensor, Tensor]:
    """Losses [n] and each row's share of the gradients of ranges and ts, [n, 2, k].

    Args:
        logits: [n, V or more], rows dense. If ``with_gradients``, they are overwritten by the gradients of sum_i
            counts_i losses_i, zero beyond V; otherwise they do not change, and the second tensor is not filled.
        v: the number of classes, V.
        targets: int64 [n], or probabilities in floating point [n, V]. The loss and gradients of a row whose class is
            not in [0, V) are NaN.
        counts: [n] in the compute dtype, at least float32.
        ranges, ts: [k] in the compute dtype, k = len(powers); None for the logits as they are.
    """
    n, width = logits.shape
    losses = torch.empty_like(counts)
    grad_parameters = counts.new_empty(n, 2, len(powers))
    if n:
        with on_device(logits):
            _rows[n,](
                logits, logits.stride(0), targets, targets.stride(0), counts, counts if ranges is None else ranges,
                counts if ts is None else ts, losses, grad_parameters, v, width, SOFT=targets.is_floating_point(),
                SMOOTHING=label_smoothing, WITH_GRADIENTS=with_gradients, BLOCK=32 * WARPS * COLUMNS,
                THREADS=32 * WARPS, VECTOR=min(16 // logits.itemsize, COLUMNS), num_warps=WARPS, enable_fp_fusion=True,
                **shape_of(counts.dtype, powers),
            )  # fmt: skip
    return losses, grad_parameters


@triton.jit
def _load(pointers, column, v, EDGE: tl.constexpr):
    if EDGE:
        return tl.load(pointers + column, mask=column < v, other=0.0)
    return tl.load(pointers + column)


@triton.jit
def _mass(
    targets, target, column, v, SOFT: tl.constexpr, SMOOTHING: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr
):
    """Target probabilities of the columns [1, BLOCK]; ``targets`` are this row's, ``target`` is its class."""
    mass = _load(targets, column, v, EDGE).to(COMPUTE) if SOFT else (column == target).to(COMPUTE)
    if SMOOTHING > 0:
        mass = mass * (1 - SMOOTHING) + SMOOTHING / tl.cast(v, COMPUTE)
    return mass


@triton.jit
def _rows(
    logits, stride, targets, target_stride, counts, ranges, ts, losses, grad_parameters, v, width,
    SOFT: tl.constexpr, SMOOTHING: tl.constexpr, WITH_GRADIENTS: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, LIMIT: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr, THREADS: tl.constexpr,
    VECTOR: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = counts.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    targets += row * target_stride
    r = hinge_parameters(ranges, 0, FIRST, SECOND)
    t = hinge_parameters(ts, 0, FIRST, SECOND)
    columns = tl.arange(0, BLOCK)[None, :]
    whole = v // BLOCK * BLOCK
    target = 0
    of_target = tl.zeros([1, 1], COMPUTE)
    one = tl.arange(0, 1)[None, :]
    if not SOFT:
        target = tl.load(targets)
        is_class = (target >= 0) & (target < v)
        target = tl.where(is_class, target, 0).to(tl.int32)
        # Read before it is overwritten: the sums over the row below synchronise all threads.
        logit = tl.load(logits + target + one).to(COMPUTE)
        of_target = modulated(logit, r, t, FIRST, SECOND, LIMIT, LARGEST)

    tops = tl.full([THREADS], -LARGEST, COMPUTE)
    totals = tl.zeros([THREADS], COMPUTE)
    weighted = tl.zeros([1, BLOCK], COMPUTE)
    masses = tl.zeros([1, BLOCK], COMPUTE)
    for EDGE in tl.static_range(2):
        for first in range(whole if EDGE else 0, v if EDGE else whole, BLOCK):
            column = first + columns
            y = modulated(_load(logits, column, v, EDGE).to(COMPUTE), r, t, FIRST, SECOND, LIMIT, LARGEST)
            if SOFT or SMOOTHING > 0:
                mass = _mass(targets, target, column, v, SOFT, SMOOTHING, EDGE, COMPUTE)
                mass = tl.where(column < v, mass, 0.0) if EDGE else mass
                weighted += mass * y
                masses += mass
            if EDGE:
                y = tl.where(column < v, y, -float("inf"))
            of_thread = tl.reshape(y, [BLOCK // (THREADS * VECTOR), THREADS, VECTOR])
            higher = tl.maximum(tops, tl.max(tl.max(of_thread, 2), 0))
            e = exponential(of_thread - higher[None, :, None])
            totals = totals * exponential(tops - higher) + tl.sum(tl.sum(e, 2), 0)
            tops = higher
    top = tl.max(tops, 0)
    log_sum = top + tl.log(tl.sum(totals * exponential(tops - top), 0))
    if not SOFT:
        log_sum = tl.where(is_class, log_sum, float("nan"))
    mass_of_row = tl.sum(tl.sum(masses, 1), 0) if SOFT else 1.0
    loss = mass_of_row * log_sum - (tl.sum(weighted, 1)[:, None] if SOFT or SMOOTHING > 0 else of_target)
    tl.store(losses + row + one, loss)

    if WITH_GRADIENTS:
        count = tl.load(counts + row)
        zero = tl.zeros([1, THREADS], COMPUTE)
        sums = (zero, zero, zero, zero, zero, zero, zero, zero)
        for EDGE in tl.static_range(2):
            for first in range(whole if EDGE else 0, width if EDGE else whole, BLOCK):
                column = first + columns
                x = _load(logits, column, v, EDGE).to(COMPUTE)
                y = modulated(x, r, t, FIRST, SECOND, LIMIT, LARGEST)
                mass = _mass(targets, target, column, v, SOFT, SMOOTHING, EDGE, COMPUTE)
                dy = count * (mass_of_row * exponential(y - log_sum) - mass)
                dy = tl.where(column < v, dy, 0.0) if EDGE else dy
                dx, sums = through_modulator(x, dy, r, t, sums, FIRST, SECOND, LIMIT, THREADS, VECTOR)
                tl.store(logits + column, dx.to(logits.dtype.element_ty), mask=(column < width) if EDGE else None)
        store_sums(grad_parameters, row, sums, t, FIRST, SECOND)
