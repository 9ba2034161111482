"""Backward of ``flash``: one kernel for the gradients of queries and parameters, one for those of keys and values."""

import triton
import triton.language as tl

from multimax.kernels.triton.flash_tiles import (
    LOG2E,
    block_of_program,
    kept_by_dropout,
    live_scores,
    load_block,
    load_parameters,
    load_tile,
    of_head,
    range_of_keys,
    scores,
    slope,
    weights_again,
)


@triton.jit
def _sums_by_thread(tile, WARPS: tl.constexpr):
    """Sums [warps, 8, 4] over each thread's part of a tile [m, n] in the layout of a matrix product.

    In that layout a warp holds groups of 16 rows, and each of its threads rows 8 apart and pairs of columns 8 apart.
    The sums are correct in any layout; in this one the threads exchange nothing.
    """
    rows: tl.constexpr = tile.shape[0] // 16
    columns: tl.constexpr = tile.shape[1] // 8
    warps: tl.constexpr = min(WARPS, rows)
    spread = tl.reshape(tile, [rows // warps, warps, 2, 8, columns, 4, 2])
    return tl.sum(tl.sum(tl.sum(tl.sum(spread, 6), 4), 2), 0)


@triton.jit
def _no_sums(m: tl.constexpr, WARPS: tl.constexpr):
    none = tl.zeros([min(WARPS, m // 16), 8, 4], tl.float32)
    return none, none, none, none, none, none, none, none


@triton.jit
def _through_segments(sums, u, dy, parameters, FIRST: tl.constexpr, SECOND: tl.constexpr, WARPS: tl.constexpr):
    """dx, and ``sums`` plus this tile's: for each hinge h of power w, sum dy w h^(w - 1) and sum dy h^w."""
    r0, r1, r2, r3, t0, t1, t2, t3 = parameters
    a0, b0, a1, b1, a2, b2, a3, b3 = sums
    dx = dy
    if SECOND:
        left, right = r2 - tl.minimum(u, r2), tl.maximum(u, r3) - r3
        dy_left, dy_right = dy * left, dy * right
        dx += 2 * t3 * dy_right
        dx -= 2 * t2 * dy_left
        a2 += _sums_by_thread(dy_left, WARPS)
        b2 += _sums_by_thread(dy_left * left, WARPS)
        a3 += _sums_by_thread(dy_right, WARPS)
        b3 += _sums_by_thread(dy_right * right, WARPS)
    if FIRST:
        left, right = tl.where(u < r0, dy, 0.0), tl.where(u > r1, dy, 0.0)
        dx += t1 * right
        dx -= t0 * left
        a0 += _sums_by_thread(left, WARPS)
        b0 += _sums_by_thread(left * (r0 - u), WARPS)
        a1 += _sums_by_thread(right, WARPS)
        b1 += _sums_by_thread(right * (u - r1), WARPS)
    return dx, (a0, b0, a1, b1, a2, b2, a3, b3)


@triton.jit
def _store_sums(SUMS, sums, parameters, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """Store the gradients of each hinge's r and t, one row per program."""
    _, _, _, _, t0, t1, t2, t3 = parameters
    a0, b0, a1, b1, a2, b2, a3, b3 = sums
    width: tl.constexpr = 4 * (FIRST + SECOND)
    row = SUMS + tl.program_id(0).to(tl.int64) * width
    if FIRST:
        tl.store(row, t0 * tl.sum(a0))
        tl.store(row + 1, tl.sum(b0) / LOG2E)
        tl.store(row + 2, -t1 * tl.sum(a1))
        tl.store(row + 3, tl.sum(b1) / LOG2E)
    if SECOND:
        row += width - 4
        tl.store(row, 2 * t2 * tl.sum(a2))
        tl.store(row + 1, tl.sum(b2) / LOG2E / LOG2E)
        tl.store(row + 2, -2 * t3 * tl.sum(a3))
        tl.store(row + 3, tl.sum(b3) / LOG2E / LOG2E)


@triton.jit
def _of_queries(
    begin, Q, GRAD, K, V, OUT, LSE, DELTA, DQ, SUMS, MASK, SEED, q_stride, grad_stride, k_stride, v_stride, out_stride,
    dq_stride, mask_i, mask_j, row_of_heads, queries, keys, scale, dropout, parameters,
    HEAD: tl.constexpr, VALUE: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE_BLOCK: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    CLAMP: tl.constexpr, CAUSAL: tl.constexpr, HAS_MASK: tl.constexpr, MASK_OF_KEYS: tl.constexpr,
    DROPOUT: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """delta, dq and sums of BLOCK_M queries from ``begin`` on; the tensors are the head's."""
    i = begin + tl.arange(0, BLOCK_M)
    far = i.to(tl.int64)[:, None]
    d, c = tl.arange(0, HEAD_BLOCK), tl.arange(0, VALUE_BLOCK)
    q = load_tile(Q + far * q_stride + d[None, :], i[:, None], d[None, :], queries, HEAD, HEAD_BLOCK, True)
    grad = GRAD + far * grad_stride + c[None, :]
    grad = load_tile(grad, i[:, None], c[None, :], queries, VALUE, VALUE_BLOCK, True)
    out = load_tile(OUT + far * out_stride + c[None, :], i[:, None], c[None, :], queries, VALUE, VALUE_BLOCK, True)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    tl.store(DELTA + i, delta, mask=i < queries)
    lse = tl.load(LSE + i, mask=i < queries, other=float("inf"))

    dq = tl.zeros([BLOCK_M, HEAD_BLOCK], tl.float32)
    sums = _no_sums(BLOCK_M, WARPS)
    middle, last = range_of_keys(begin, queries, keys, BLOCK_M, BLOCK_N, CAUSAL)
    for EDGE in tl.static_range(2):
        n = tl.arange(0, EDGE_BLOCK if EDGE else BLOCK_N)
        for start in range(middle if EDGE else 0, last if EDGE else middle, n.shape[0]):
            j = start + n
            k = load_block(K, start, n[None, :], d[:, None], k_stride, keys, HEAD, HEAD_BLOCK, EDGE)
            v = load_block(V, start, n[None, :], c[:, None], v_stride, keys, VALUE, VALUE_BLOCK, EDGE)
            u = scores(q, k, scale, CLAMP)
            p = weights_again(u, lse[:, None], parameters, FIRST, SECOND)
            dp = tl.dot(grad, v, input_precision="ieee")
            if DROPOUT:
                kept = kept_by_dropout(SEED, i, start, row_of_heads, dropout, n.shape[0])
                dp = tl.where(kept, dp / (1 - dropout), 0.0)
            dy = p * (dp - delta[:, None])
            if EDGE or HAS_MASK:
                live = live_scores(
                    i[:, None], j[None, :], MASK, mask_i, mask_j, queries, keys, HAS_MASK, MASK_OF_KEYS, CAUSAL, EDGE
                )
                dy = tl.where(live, dy, 0.0)
            dx, sums = _through_segments(sums, u, dy, parameters, FIRST, SECOND, WARPS)
            dq = tl.dot(dx.to(k.dtype), tl.trans(k), dq, input_precision="ieee")
    if FIRST or SECOND:
        _store_sums(SUMS, sums, parameters, FIRST, SECOND)
    within = (i[:, None] < queries) & (d[None, :] < HEAD)
    tl.store(DQ + far * dq_stride + d[None, :], (dq * scale).to(DQ.dtype.element_ty), mask=within)


@triton.jit
def backward_of_queries(
    GRAD, Q, K, V, OUT, LSE, DELTA, DQ, SUMS, MASK, RANGES, TS, SEED,
    grad_strides, q_strides, k_strides, v_strides, out_strides, dq_strides, mask_strides,
    heads, queries, keys, scale, dropout, PER_HEAD: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr, CLAMP: tl.constexpr, CAUSAL: tl.constexpr,
    HAS_MASK: tl.constexpr, MASK_OF_KEYS: tl.constexpr, DROPOUT: tl.constexpr,
    HEAD: tl.constexpr, VALUE: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE_BLOCK: tl.constexpr, LAST_BLOCK: tl.constexpr,
    WARPS: tl.constexpr,
):  # fmt: skip
    block, row_of_heads, is_last = block_of_program(queries, BLOCK_M, CAUSAL)
    batch, head = row_of_heads // heads, row_of_heads % heads
    parameters = load_parameters(RANGES, TS, head if PER_HEAD else 0, FIRST, SECOND)
    Q, GRAD = of_head(Q, q_strides, batch, head), of_head(GRAD, grad_strides, batch, head)
    K, V = of_head(K, k_strides, batch, head), of_head(V, v_strides, batch, head)
    OUT, DQ = of_head(OUT, out_strides, batch, head), of_head(DQ, dq_strides, batch, head)
    LSE += row_of_heads.to(tl.int64) * queries
    DELTA += row_of_heads.to(tl.int64) * queries
    if HAS_MASK:
        MASK = of_head(MASK, mask_strides, batch, head)
    for NARROW in tl.static_range(2 if LAST_BLOCK < BLOCK_M else 1):
        if (LAST_BLOCK == BLOCK_M) | (is_last == (NARROW == 1)):
            _of_queries(
                block * BLOCK_M, Q, GRAD, K, V, OUT, LSE, DELTA, DQ, SUMS, MASK, SEED, q_strides[2], grad_strides[2],
                k_strides[2], v_strides[2], out_strides[2], dq_strides[2], mask_strides[2], mask_strides[3],
                row_of_heads, queries, keys, scale, dropout, parameters, HEAD, VALUE, HEAD_BLOCK, VALUE_BLOCK,
                LAST_BLOCK if NARROW else BLOCK_M, BLOCK_N, EDGE_BLOCK, FIRST, SECOND, CLAMP, CAUSAL, HAS_MASK,
                MASK_OF_KEYS, DROPOUT, WARPS,
            )  # fmt: skip


@triton.jit
def _of_keys(
    begin, Q, GRAD, K, V, LSE, DELTA, DK, DV, MASK, SEED, q_stride, grad_stride, k_stride, v_stride, dk_stride,
    dv_stride, mask_i, mask_j, row_of_heads, queries, keys, scale, dropout, parameters,
    HEAD: tl.constexpr, VALUE: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE_BLOCK: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    CLAMP: tl.constexpr, CAUSAL: tl.constexpr, HAS_MASK: tl.constexpr, MASK_OF_KEYS: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """dk and dv of BLOCK_N keys from ``begin`` on; the tensors are the head's."""
    j = begin + tl.arange(0, BLOCK_N)
    far = j.to(tl.int64)[:, None]
    d, c = tl.arange(0, HEAD_BLOCK)[None, :], tl.arange(0, VALUE_BLOCK)[None, :]
    k = load_tile(K + far * k_stride + d, j[:, None], d, keys, HEAD, HEAD_BLOCK, True)
    v = load_tile(V + far * v_stride + c, j[:, None], c, keys, VALUE, VALUE_BLOCK, True)

    dk = tl.zeros([BLOCK_N, HEAD_BLOCK], tl.float32)
    dv = tl.zeros([BLOCK_N, VALUE_BLOCK], tl.float32)
    # Only the last block and the queries on the causal diagonal, which come first, need checks.
    whole = queries // BLOCK_M * BLOCK_M
    first, middle = 0, 0
    if CAUSAL:
        first = tl.minimum(begin, queries) // BLOCK_M * BLOCK_M
        middle = tl.maximum(first, tl.minimum(tl.cdiv(begin + BLOCK_N, BLOCK_M) * BLOCK_M, whole))
    for PART in tl.static_range(0 if CAUSAL else 1, 3):
        m = tl.arange(0, EDGE_BLOCK if PART == 2 else BLOCK_M)
        begin_of_part = first if PART == 0 else (middle if PART == 1 else whole)
        end_of_part = middle if PART == 0 else (whole if PART == 1 else queries)
        for start in range(begin_of_part, end_of_part, m.shape[0]):
            i = start + m
            q = load_block(Q, start, m[:, None], d, q_stride, queries, HEAD, HEAD_BLOCK, PART != 1)
            grad = load_block(GRAD, start, m[:, None], c, grad_stride, queries, VALUE, VALUE_BLOCK, PART != 1)
            lse = tl.load(LSE + i, mask=i < queries, other=float("inf"))
            delta = tl.load(DELTA + i, mask=i < queries, other=0.0)
            u = scores(k, tl.trans(q), scale, CLAMP)
            p = weights_again(u, lse[None, :], parameters, FIRST, SECOND)
            if PART != 1 or HAS_MASK:
                live = live_scores(
                    i[None, :], j[:, None], MASK, mask_i, mask_j, queries, keys, HAS_MASK, MASK_OF_KEYS, CAUSAL,
                    PART != 1,
                )  # fmt: skip
                p = tl.where(live, p, 0.0)
            dp = tl.dot(v, tl.trans(grad), input_precision="ieee")
            given = p
            if DROPOUT:
                kept = tl.trans(kept_by_dropout(SEED, i, begin, row_of_heads, dropout, BLOCK_N))
                given, dp = tl.where(kept, p / (1 - dropout), 0.0), tl.where(kept, dp / (1 - dropout), 0.0)
            dv = tl.dot(given.to(grad.dtype), grad, dv, input_precision="ieee")
            dx = p * (dp - delta[None, :]) * slope(u, parameters, FIRST, SECOND)
            dk = tl.dot(dx.to(q.dtype), q, dk, input_precision="ieee")
    within = j[:, None] < keys
    tl.store(DK + far * dk_stride + d, (dk * scale).to(DK.dtype.element_ty), mask=within & (d < HEAD))
    tl.store(DV + far * dv_stride + c, dv.to(DV.dtype.element_ty), mask=within & (c < VALUE))


@triton.jit
def backward_of_keys(
    GRAD, Q, K, V, LSE, DELTA, DK, DV, MASK, RANGES, TS, SEED,
    grad_strides, q_strides, k_strides, v_strides, dk_strides, dv_strides, mask_strides,
    heads, queries, keys, scale, dropout, PER_HEAD: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr, CLAMP: tl.constexpr, CAUSAL: tl.constexpr,
    HAS_MASK: tl.constexpr, MASK_OF_KEYS: tl.constexpr, DROPOUT: tl.constexpr,
    HEAD: tl.constexpr, VALUE: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE_BLOCK: tl.constexpr, LAST_BLOCK: tl.constexpr,
):  # fmt: skip
    block, row_of_heads, is_last = block_of_program(keys, BLOCK_N, False)
    batch, head = row_of_heads // heads, row_of_heads % heads
    parameters = load_parameters(RANGES, TS, head if PER_HEAD else 0, FIRST, SECOND)
    Q, GRAD = of_head(Q, q_strides, batch, head), of_head(GRAD, grad_strides, batch, head)
    K, V = of_head(K, k_strides, batch, head), of_head(V, v_strides, batch, head)
    DK, DV = of_head(DK, dk_strides, batch, head), of_head(DV, dv_strides, batch, head)
    LSE += row_of_heads.to(tl.int64) * queries
    DELTA += row_of_heads.to(tl.int64) * queries
    if HAS_MASK:
        MASK = of_head(MASK, mask_strides, batch, head)
    for NARROW in tl.static_range(2 if LAST_BLOCK < BLOCK_N else 1):
        if (LAST_BLOCK == BLOCK_N) | (is_last == (NARROW == 1)):
            _of_keys(
                block * BLOCK_N, Q, GRAD, K, V, LSE, DELTA, DK, DV, MASK, SEED, q_strides[2], grad_strides[2],
                k_strides[2], v_strides[2], dk_strides[2], dv_strides[2], mask_strides[2], mask_strides[3],
                row_of_heads, queries, keys, scale, dropout, parameters, HEAD, VALUE, HEAD_BLOCK, VALUE_BLOCK,
                BLOCK_M, LAST_BLOCK if NARROW else BLOCK_N, EDGE_BLOCK, FIRST, SECOND, CLAMP, CAUSAL, HAS_MASK,
                MASK_OF_KEYS, DROPOUT,
            )  # fmt: skip
