"""Entmax's row kernels in Triton: the functions of ``multimax.kernels.operators`` for alpha = 2, 1.5, any, and learned.

Nothing is sorted: with z = x - max(x), Newton's method lowers the largest weight a until it no longer changes, in
registers if a row fits in one block. A tile iterates until its last row has converged, at most MAX_STEPS times. As in
``multimax.formulas.entmax``, the unknown is a for alpha = 2, where a step is exact once the support is found; the
square root of a for alpha = 1.5; and log a for any other alpha, which works down to alpha = 1.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from multimax.formulas.tsallis import SMALLEST_D
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
BACKWARD_BLOCK = 16384
MAX_STEPS = 32

_POWERS = {2.0: 1, 1.5: 2}  # 1 / (alpha - 1) for an alpha with its own code; 0 for any other
_SOFTMAX = 3  # alpha = 1, in the backward only


def entmax_forward(scores: Tensor, mask: Tensor | None, alpha: float) -> Tensor:
    return _launch_forward(scores, mask, _in_tensor(scores, alpha), _POWERS.get(alpha, 0))


def alpha_entmax_forward(scores: Tensor, mask: Tensor | None, alpha: Tensor) -> Tensor:
    return _launch_forward(scores, mask, alpha.contiguous(), 0)


def entmax_backward(grad: Tensor, weights: Tensor, alpha: float) -> Tensor:
    power = _SOFTMAX if alpha == 1 else _POWERS.get(alpha, 0)
    return _launch_backward(grad, weights, _in_tensor(weights, alpha), power, None)


def alpha_entmax_backward(grad: Tensor, weights: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    grad_alpha = torch.zeros_like(alpha)
    return _launch_backward(grad, weights, alpha.contiguous(), 0, grad_alpha), grad_alpha


def _in_tensor(scores: Tensor, alpha: float) -> Tensor:
    return torch.full((1,), alpha, dtype=torch.promote_types(scores.dtype, torch.float32), device=scores.device)


def _launch_forward(scores: Tensor, mask: Tensor | None, alpha: Tensor, power: int) -> Tensor:
    scores = scores.contiguous()
    weights = torch.empty_like(scores)
    if scores.numel():
        n = scores.shape[-1]
        columns = 32 if n >= (1024 if power == 2 else 8192) else 8 if power == 0 and n < 512 else 16
        rows = rows_of(scores, mask, alpha.shape[0], FORWARD_BLOCK, columns)
        with on_device(scores):
            _forward[rows.programs(), rows.heads](
                scores, alpha, weights, POWER=power, MAX_STEPS=MAX_STEPS, SMALLEST_D=SMALLEST_D, **rows.options()
            )
    return weights


def _launch_backward(grad: Tensor, weights: Tensor, alpha: Tensor, power: int, grad_alpha: Tensor | None) -> Tensor:
    weights = weights.contiguous()
    grad_scores = torch.empty_like(weights)
    if weights.numel():
        columns = 8 if grad_alpha is not None and weights.shape[-1] < 512 else 16
        rows = rows_of(weights, None, alpha.shape[0], BACKWARD_BLOCK, columns)
        programs = rows.programs(summing=grad_alpha is not None)
        partial = None if grad_alpha is None else alpha.new_empty(rows.heads, programs)
        with on_device(weights):
            _backward[programs, rows.heads](
                grad.contiguous(), weights, alpha, grad_scores, partial, POWER=power, SMALLEST_D=SMALLEST_D,
                **rows.options(),
            )  # fmt: skip
            if grad_alpha is not None:
                add_partial_sums[rows.heads,](partial, grad_alpha, None, programs, K=1, **SUMMING)
    return grad_scores


@triton.jit
def _log1p(u):
    w = 1 + u
    exact = w == 1
    return tl.where(exact, u, tl.log(w) * (u / tl.where(exact, 1.0, w - 1)))


@triton.jit
def _expm1(u):
    w = exponential(u)
    exact = w == 1
    return tl.where(exact, u, (w - 1) * (u / tl.where(exact, 1.0, tl.log(w))))


@triton.jit
def _distance_from_one(alpha, SMALLEST_D: tl.constexpr):
    """alpha - 1, kept above 0; NaN for an alpha outside [1, 2], which reaches every weight of the head."""
    return tl.where((alpha >= 1) & (alpha <= 2), tl.maximum(alpha - 1, SMALLEST_D), float("nan"))


@triton.jit
def _weights(z, a, d, POWER: tl.constexpr):
    """p, and s = p^(2 - alpha) on the support, to which Newton's slope is proportional; NaN stays NaN."""
    if POWER == 1:
        p = tl.maximum(z + a, 0.0, propagate_nan=tl.PropagateNan.ALL)
        return p, (p > 0).to(p.dtype)
    if POWER == 2:
        s = tl.maximum(0.5 * z + a, 0.0, propagate_nan=tl.PropagateNan.ALL)
        return s * s, s
    u = d * z / exponential(d * a)
    out = u <= -1
    log_p = a + _log1p(tl.where(out, 0.0, u)) / d
    return tl.where(out, 0.0, exponential(log_p)), tl.where(out, 0.0, exponential((1 - d) * log_p))


@triton.jit
def _lowered(a, total, slope, d, POWER: tl.constexpr):
    """The unknown after a Newton step, never higher than before, so that rounding cannot make it oscillate."""
    slope = tl.where(slope == 0, 1.0, slope)  # in an empty row, whose unknown does not change
    if POWER == 1:
        following = a - (total - 1) / slope
    elif POWER == 2:
        following = a - (total - tl.sqrt(total)) / slope
    else:
        total = tl.where(total == 0, 1.0, total)
        following = a + _log1p(total * _expm1(-d * tl.log(total)) / (exponential(d * a) * slope)) / d
    return tl.minimum(following, a)


@triton.jit
def _forward(
    scores, alpha, weights, mask, layout, count, n, heads, queries, tiles,
    POWER: tl.constexpr, MAX_STEPS: tl.constexpr, SMALLEST_D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    WHOLE: tl.constexpr, SURE: tl.constexpr, THREADS: tl.constexpr, VECTOR: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = alpha.dtype.element_ty
    head = tl.program_id(1)
    d = _distance_from_one(tl.load(alpha + head), SMALLEST_D)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row, exists = rows_of_tile(tile, head, count, heads, queries, ROWS, INDEX)
        start = row.to(tl.int64) * n
        a = tl.full([ROWS, 1], 0.0 if POWER == 0 else 1.0, COMPUTE)
        moving = 1
        steps = 0
        if WHOLE:
            column, there, live = columns_of_block(0, row, exists, n, mask, layout, BLOCK, SURE, THREADS)
            x = load_live(scores + start + column, there, live, mask, -float("inf")).to(COMPUTE)
            top = tl.max(x, 1)[:, None]
            z = tl.where(live, x - top, -float("inf"))
            while (moving > 0) & (steps < MAX_STEPS):
                p, s = _weights(z, a, d, POWER)
                lower = _lowered(a, tl.sum(p, 1)[:, None], tl.sum(s, 1)[:, None], d, POWER)
                moving = tl.max((lower < a).to(tl.int32))
                steps += 1
                a = lower
            p, s = _weights(z, a, d, POWER)
            total = tl.sum(p, 1)[:, None]
            p = p / tl.where(total == 0, 1.0, total)
            tl.store(weights + start + column, p.to(weights.dtype.element_ty), mask=there)
        else:
            tops = tl.full([ROWS, BLOCK], -float("inf"), COMPUTE)
            for first in range(0, n, BLOCK):
                column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                x = load_live(scores + start + column, there, live, mask, -float("inf")).to(COMPUTE)
                tops = tl.maximum(tops, x)
            top = tl.max(tops, 1)[:, None]
            total = tl.zeros([ROWS, 1], COMPUTE)
            while (moving > 0) & (steps < MAX_STEPS):
                totals = tl.zeros([ROWS, BLOCK], COMPUTE)
                slopes = tl.zeros([ROWS, BLOCK], COMPUTE)
                for first in range(0, n, BLOCK):
                    column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                    x = load_live(scores + start + column, there, live, mask, -float("inf")).to(COMPUTE)
                    p, s = _weights(tl.where(live, x - top, -float("inf")), a, d, POWER)
                    totals += p
                    slopes += s
                total = tl.sum(totals, 1)[:, None]
                lower = _lowered(a, total, tl.sum(slopes, 1)[:, None], d, POWER)
                moving = tl.max((lower < a).to(tl.int32))
                steps += 1
                a = tl.where(steps < MAX_STEPS, lower, a)  # else the total would not be that of the weights
            for first in range(0, n, BLOCK):
                column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                x = load_live(scores + start + column, there, live, mask, -float("inf")).to(COMPUTE)
                p, s = _weights(tl.where(live, x - top, -float("inf")), a, d, POWER)
                p = p / tl.where(total == 0, 1.0, total)
                tl.store(weights + start + column, p.to(weights.dtype.element_ty), mask=there)


@triton.jit
def _slope_of(p, d, POWER: tl.constexpr):
    """s = p^(2 - alpha) on the support, and log p there, 0 elsewhere."""
    if POWER == 1:
        return (p > 0).to(p.dtype), p
    if POWER == 2:
        return tl.sqrt(p), p
    if POWER == 3:
        return p, p
    log_p = tl.log(tl.where(p > 0, p, 1.0))
    return tl.where(p > 0, exponential((1 - d) * log_p), 0.0), log_p


@triton.jit
def _psi(log_p, d, NEAR: tl.constexpr):
    """(1 - e^x (1 - x)) / d^2 with x = d log p, by its series above ``NEAR``, where the closed form loses digits."""
    x = d * log_p
    series = tl.full(x.shape, 10 / 39916800, x.dtype)  # sum_k>=2 (k - 1) / k! x^(k - 2), from k = 11 down
    series = series * x + 9 / 3628800
    series = series * x + 8 / 362880
    series = series * x + 7 / 40320
    series = series * x + 6 / 5040
    series = series * x + 5 / 720
    series = series * x + 4 / 120
    series = series * x + 3 / 24
    series = series * x + 2 / 6
    series = series * x + 1 / 2
    far = tl.minimum(x, NEAR)
    closed = (1 - exponential(far) * (1 - far)) / (far * far)
    return log_p * log_p * tl.where(x > NEAR, series, closed)


@triton.jit
def _backward(
    grad, weights, alpha, grad_scores, partial, mask, layout, count, n, heads, queries, tiles,
    POWER: tl.constexpr, SMALLEST_D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
    SURE: tl.constexpr, THREADS: tl.constexpr, VECTOR: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = alpha.dtype.element_ty
    NEAR: tl.constexpr = -1.0 if alpha.dtype.element_ty == tl.float32 else -0.1
    head = tl.program_id(1)
    d = _distance_from_one(tl.load(alpha + head), SMALLEST_D)
    grad_alpha = tl.zeros([ROWS, THREADS], COMPUTE)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row, exists = rows_of_tile(tile, head, count, heads, queries, ROWS, INDEX)
        start = row.to(tl.int64) * n
        if WHOLE:
            column, there, _ = columns_of_block(0, row, exists, n, mask, layout, BLOCK, SURE, THREADS)
            p = tl.load(weights + start + column, mask=there, other=0.0).to(COMPUTE)
            g = tl.load(grad + start + column, mask=there, other=0.0).to(COMPUTE)
            s, log_p = _slope_of(p, d, POWER)
            total = tl.sum(s, 1)[:, None]
            mean = tl.sum(s * g, 1)[:, None] / tl.where(total == 0, 1.0, total)
            dx = s * (g - mean)
            tl.store(grad_scores + start + column, dx.to(grad_scores.dtype.element_ty), mask=there)
            if partial is not None:
                grad_alpha -= sums_by_thread(_psi(log_p, d, NEAR) * dx, THREADS, VECTOR)
        else:
            totals = tl.zeros([ROWS, BLOCK], COMPUTE)
            sums = tl.zeros([ROWS, BLOCK], COMPUTE)
            for first in range(0, n, BLOCK):
                column, there, _ = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                p = tl.load(weights + start + column, mask=there, other=0.0).to(COMPUTE)
                g = tl.load(grad + start + column, mask=there, other=0.0).to(COMPUTE)
                s, log_p = _slope_of(p, d, POWER)
                totals += s
                sums += s * g
            total = tl.sum(totals, 1)[:, None]
            mean = tl.sum(sums, 1)[:, None] / tl.where(total == 0, 1.0, total)
            for first in range(0, n, BLOCK):
                column, there, _ = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                p = tl.load(weights + start + column, mask=there, other=0.0).to(COMPUTE)
                g = tl.load(grad + start + column, mask=there, other=0.0).to(COMPUTE)
                s, log_p = _slope_of(p, d, POWER)
                dx = s * (g - mean)
                tl.store(grad_scores + start + column, dx.to(grad_scores.dtype.element_ty), mask=there)
                if partial is not None:
                    grad_alpha -= sums_by_thread(_psi(log_p, d, NEAR) * dx, THREADS, VECTOR)
    if partial is not None:
        tl.store(partial + head * tl.num_programs(0) + tl.program_id(0), tl.sum(grad_alpha))
