"""What the Triton kernels of ``flash`` compute with a tile of scores. Importing this file imports Triton.

A tile of scores lives in registers: u = scale log2(e) q.k, so that exponentials are powers of two, with SegLU's
parameters scaled to match. Softmax does not change if a constant is added to a row, so SegLU is evaluated without its
constants: t0 relu(r0 - u) as -t0 min(u, r0), t1 relu(u - r1) as t1 max(u, r1), and likewise for the squares. The
running maximum is that of the modulated scores, since SegLU need not be monotone. The forward stores log2 sum exp2 of
them for the backward, and +inf for a row without a live key, which makes its weights zero there.

Backward, with y the modulated scores, p = exp2(y - lse), delta = output . grad and dp = grad . v:

    dy = p (dp - delta),    dx = dy SegLU'(x),    dq = scale dx k,    dk = scale dx^T q,    dv = p^T grad

One kernel loops over the keys for a block of queries and computes delta, dq and, for every hinge, the two sums that
give the gradients of its range and its t. The other loops over the queries for a block of keys, for dk and dv. Each
output is written once by one program, so the same inputs give the same bits.

Names: i indexes queries, j keys; a block is BLOCK_M queries by BLOCK_N keys. The last blocks of a loop may reach beyond
the end or across the causal diagonal; the loop is split there, so only these blocks (EDGE) need checks.
"""

import triton
import triton.language as tl

from multimax.kernels.triton.multimax import hinge_parameters

LOG2E = tl.constexpr(1.4426950408889634)

# Scores, in units of log2, are clamped to this so that their squares times any sensible t stay finite.
LIMIT = tl.constexpr(2.0**50)


@triton.jit
def load_parameters(RANGES, TS, head, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """(r, r, r, r, t, t, t, t): left and right of the first order, then of the second; zero if an order is absent."""
    r0, r1, r2, r3 = hinge_parameters(RANGES, head, FIRST, SECOND)
    t0, t1, t2, t3 = hinge_parameters(TS, head, FIRST, SECOND)
    return r0 * LOG2E, r1 * LOG2E, r2 * LOG2E, r3 * LOG2E, t0, t1, t2 / LOG2E, t3 / LOG2E


@triton.jit
def modulate(u, parameters, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """SegLU of u, up to a constant."""
    r0, r1, r2, r3, t0, t1, t2, t3 = parameters
    y = u
    if FIRST:
        y -= t0 * tl.minimum(u, r0)
        y += t1 * tl.maximum(u, r1)
    if SECOND:
        left, right = tl.minimum(u, r2), tl.maximum(u, r3)
        y += left * (t2 * left - 2 * t2 * r2)
        y += right * (t3 * right - 2 * t3 * r3)
    return y


@triton.jit
def weights_again(u, lse, parameters, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """p of u, at most one: for a huge score the forward may have rounded down and this up."""
    return tl.exp2(tl.minimum(modulate(u, parameters, FIRST, SECOND) - lse, 0.0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def slope(u, parameters, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """SegLU'(u)."""
    r0, r1, r2, r3, t0, t1, t2, t3 = parameters
    slope = tl.full(u.shape, 1.0, tl.float32)
    if SECOND:  # 1 + 2 t3 (max(u, r3) - r3) - 2 t2 (r2 - min(u, r2)), its constants first
        slope += -2 * t3 * r3 - 2 * t2 * r2
        slope += 2 * t3 * tl.maximum(u, r3)
        slope += 2 * t2 * tl.minimum(u, r2)
    if FIRST:
        slope += tl.where(u > r1, t1, 0.0)
        slope -= tl.where(u < r0, t0, 0.0)
    return slope


@triton.jit
def block_of_program(count, BLOCK: tl.constexpr, CAUSAL: tl.constexpr):
    """This program's block of rows, its (batch, head) index, and whether the block is the last.

    With a causal mask, the longest loops start first.
    """
    blocks = tl.cdiv(count, BLOCK)
    block = tl.program_id(0) % blocks
    if CAUSAL:
        block = blocks - 1 - block
    return block, tl.program_id(0) // blocks, block == blocks - 1


@triton.jit
def range_of_keys(begin, queries, keys, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr):
    """The first key that needs checks and the end, for BLOCK_M queries from ``begin`` on."""
    if CAUSAL:
        last = tl.minimum(keys, tl.minimum(begin + BLOCK_M, queries))
        return tl.minimum(keys, begin + 1) // BLOCK_N * BLOCK_N, last
    return keys // BLOCK_N * BLOCK_N, keys


@triton.jit
def scores(a, b, scale, CLAMP: tl.constexpr):
    """u of a tile of queries and one of keys, or its transpose."""
    u = tl.dot(a, b, input_precision="ieee") * (scale * LOG2E)
    return tl.clamp(u, -LIMIT, LIMIT, propagate_nan=tl.PropagateNan.ALL) if CLAMP else u


@triton.jit
def live_scores(
    i, j, MASK, mask_i, mask_j, queries, keys, HAS_MASK: tl.constexpr, MASK_OF_KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Which scores of a tile are live; i and j run along its two dimensions, in either order."""
    live = (i >= 0) & (j >= 0)
    if EDGE:
        live &= j < keys
        if CAUSAL:
            live &= j <= i
    if HAS_MASK:
        if MASK_OF_KEYS:
            live &= tl.load(MASK + j.to(tl.int64) * mask_j, mask=j < keys, other=0) != 0
        else:
            within = (i < queries) & (j < keys)
            live &= tl.load(MASK + i.to(tl.int64) * mask_i + j.to(tl.int64) * mask_j, mask=within, other=0) != 0
    return live


@triton.jit
def kept_by_dropout(SEED, i, start, row_of_heads, dropout, BLOCK_N: tl.constexpr):
    """Which weights dropout keeps, [queries, BLOCK_N]: Philox, counted by query, key and (batch, head).

    Four consecutive keys use the four numbers of one call, so the result does not depend on the tiling. Seven rounds
    are the fewest that pass all of its authors' tests (Salmon et al., SC 2011).
    """
    i = i[:, None]
    quad = start // 4 + tl.arange(0, BLOCK_N // 4)[None, :]
    zero = i * 0 + quad * 0
    a, b, c, d = tl.philox(tl.load(SEED), zero + i, zero + quad, zero + row_of_heads, zero, 7)
    least = tl.cast(dropout * 4294967296.0, tl.uint32)  # of the 2^32 whole numbers
    kept = tl.join(tl.join(a >= least, c >= least), tl.join(b >= least, d >= least))
    return tl.reshape(kept, [i.shape[0], BLOCK_N])


@triton.jit
def load_tile(pointer, rows, columns, count, SIZE: tl.constexpr, WIDTH: tl.constexpr, EDGE: tl.constexpr):
    """A tile, with zeros beyond ``count`` rows and SIZE of its WIDTH columns."""
    if SIZE == WIDTH:
        if EDGE:
            return tl.load(pointer, mask=rows < count, other=0.0)
        return tl.load(pointer)
    if EDGE:
        return tl.load(pointer, mask=(rows < count) & (columns < SIZE), other=0.0)
    return tl.load(pointer, mask=columns < SIZE, other=0.0)


@triton.jit
def load_block(X, start, rows, columns, stride, count, SIZE: tl.constexpr, WIDTH: tl.constexpr, EDGE: tl.constexpr):
    """The tile of rows from ``start`` on; ``rows`` and ``columns`` run along its two dimensions, in either order."""
    pointer = X + tl.cast(start, tl.int64) * stride + (rows * stride + columns)
    return load_tile(pointer, start + rows, columns, count, SIZE, WIDTH, EDGE)


@triton.jit
def of_head(tensor, strides, batch, head):
    return tensor + batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1]
