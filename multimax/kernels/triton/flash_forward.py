"""Forward of ``flash``: one program per block of queries, looping over blocks of keys."""

import triton
import triton.language as tl

from multimax.kernels.triton.flash_tiles import (
    block_of_program,
    kept_by_dropout,
    live_scores,
    load_block,
    load_parameters,
    load_tile,
    modulate,
    of_head,
    range_of_keys,
    scores,
)


@triton.jit
def _of_queries(
    begin, Q, K, V, OUT, LSE, MASK, SEED, q_stride, k_stride, v_stride, out_stride, mask_i, mask_j, row_of_heads,
    queries, keys, scale, dropout, parameters,
    HEAD: tl.constexpr, VALUE: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE_BLOCK: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    CLAMP: tl.constexpr, CAUSAL: tl.constexpr, HAS_MASK: tl.constexpr, MASK_OF_KEYS: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """The output of BLOCK_M queries from ``begin`` on; the tensors are the head's."""
    i = begin + tl.arange(0, BLOCK_M)
    far = i.to(tl.int64)[:, None]
    d, c = tl.arange(0, HEAD_BLOCK), tl.arange(0, VALUE_BLOCK)[None, :]
    q = load_tile(Q + far * q_stride + d[None, :], i[:, None], d[None, :], queries, HEAD, HEAD_BLOCK, True)

    total = tl.zeros([BLOCK_M, VALUE_BLOCK], tl.float32)
    sums = tl.zeros([BLOCK_M], tl.float32)
    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    middle, last = range_of_keys(begin, queries, keys, BLOCK_M, BLOCK_N, CAUSAL)
    for EDGE in tl.static_range(2):
        n = tl.arange(0, EDGE_BLOCK if EDGE else BLOCK_N)
        for start in range(middle if EDGE else 0, last if EDGE else middle, n.shape[0]):
            j = start + n
            k = load_block(K, start, n[None, :], d[:, None], k_stride, keys, HEAD, HEAD_BLOCK, EDGE)
            u = scores(q, k, scale, CLAMP)
            y = modulate(u, parameters, FIRST, SECOND)
            if EDGE or HAS_MASK:
                live = live_scores(
                    i[:, None], j[None, :], MASK, mask_i, mask_j, queries, keys, HAS_MASK, MASK_OF_KEYS, CAUSAL, EDGE
                )
                y = tl.where(live, y, float("-inf"))
            larger = tl.maximum(largest, tl.max(y, 1))
            # Before a row's first live key, any finite number will do.
            base = tl.where(larger == float("-inf"), 0.0, larger)
            p = tl.exp2(y - base[:, None])
            shrink = tl.exp2(largest - base)
            sums = sums * shrink + tl.sum(p, 1)
            if DROPOUT:
                p = tl.where(kept_by_dropout(SEED, i, start, row_of_heads, dropout, n.shape[0]), p, 0.0)
            v = load_block(V, start, n[:, None], c, v_stride, keys, VALUE, VALUE_BLOCK, EDGE)
            total = tl.dot(p.to(v.dtype), v, total * shrink[:, None], input_precision="ieee")
            largest = larger

    is_live = sums > 0
    sums = tl.where(is_live, sums, 1.0)
    weight = tl.where(is_live, 1 / (sums * (1 - dropout)), 0.0)
    lse = tl.where(is_live, largest + tl.log2(sums), float("inf"))
    tl.store(LSE + i, lse, mask=i < queries)
    within = (i[:, None] < queries) & (c < VALUE)
    tl.store(OUT + far * out_stride + c, (total * weight[:, None]).to(OUT.dtype.element_ty), mask=within)


@triton.jit
def forward(
    Q, K, V, OUT, LSE, MASK, RANGES, TS, SEED, q_strides, k_strides, v_strides, out_strides, mask_strides,
    heads, queries, keys, scale, dropout, PER_HEAD: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr, CLAMP: tl.constexpr, CAUSAL: tl.constexpr,
    HAS_MASK: tl.constexpr, MASK_OF_KEYS: tl.constexpr, DROPOUT: tl.constexpr,
    HEAD: tl.constexpr, VALUE: tl.constexpr, HEAD_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EDGE_BLOCK: tl.constexpr, LAST_BLOCK: tl.constexpr,
):  # fmt: skip
    block, row_of_heads, is_last = block_of_program(queries, BLOCK_M, CAUSAL)
    batch, head = row_of_heads // heads, row_of_heads % heads
    parameters = load_parameters(RANGES, TS, head if PER_HEAD else 0, FIRST, SECOND)
    Q, K, V = of_head(Q, q_strides, batch, head), of_head(K, k_strides, batch, head), of_head(V, v_strides, batch, head)
    OUT = of_head(OUT, out_strides, batch, head)
    LSE += row_of_heads.to(tl.int64) * queries
    if HAS_MASK:
        MASK = of_head(MASK, mask_strides, batch, head)
    for NARROW in tl.static_range(2 if LAST_BLOCK < BLOCK_M else 1):
        if (LAST_BLOCK == BLOCK_M) | (is_last == (NARROW == 1)):
            _of_queries(
                block * BLOCK_M, Q, K, V, OUT, LSE, MASK, SEED, q_strides[2], k_strides[2], v_strides[2],
                out_strides[2], mask_strides[2], mask_strides[3], row_of_heads, queries, keys, scale, dropout,
                parameters, HEAD, VALUE, HEAD_BLOCK, VALUE_BLOCK, LAST_BLOCK if NARROW else BLOCK_M, BLOCK_N,
                EDGE_BLOCK, FIRST, SECOND, CLAMP, CAUSAL, HAS_MASK, MASK_OF_KEYS, DROPOUT,
            )  # fmt: skip
