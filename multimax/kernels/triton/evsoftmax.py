"""Ev-softmax's forward row kernel in Triton: ``evsoftmax_forward`` of ``multimax.kernels.operators``.

The scores are read once, or four times if a row needs several blocks. ``multimax.formulas.evsoftmax`` explains why the
mean is relative to the maximum and has a margin. The backward is entmax's at alpha = 1.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from multimax.kernels import on_device
from multimax.kernels.triton.launch import columns_of_block, exponential, load_live, rows_of, rows_of_tile

FORWARD_BLOCK = 16384


def evsoftmax_forward(scores: Tensor, mask: Tensor | None, epsilon: float) -> Tensor:
    scores = scores.contiguous()
    weights = torch.empty_like(scores)
    if scores.numel():
        rows = rows_of(scores, mask, 1, FORWARD_BLOCK, 32 if scores.shape[-1] >= 512 else 16)
        dtype = torch.promote_types(scores.dtype, torch.float32)
        with on_device(scores):
            _forward[rows.programs(), 1](
                scores, weights, DOUBLE=dtype == torch.float64, MARGIN=1 + 8 * torch.finfo(dtype).eps,
                TRACE=epsilon / (1 + epsilon), **rows.options(),
            )  # fmt: skip
    return weights


@triton.jit
def _exponentials(z, mean, MARGIN: tl.constexpr, TRACE: tl.constexpr):
    e = exponential(z)
    return tl.where(z >= mean * MARGIN, e, e * TRACE)


@triton.jit
def _forward(
    scores, weights, mask, layout, count, n, heads, queries, tiles,
    DOUBLE: tl.constexpr, MARGIN: tl.constexpr, TRACE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    WHOLE: tl.constexpr, SURE: tl.constexpr, THREADS: tl.constexpr, VECTOR: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    COMPUTE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    LOWEST: tl.constexpr = -float("inf")
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row, exists = rows_of_tile(tile, 0, count, heads, queries, ROWS, INDEX)
        start = row.to(tl.int64) * n
        if WHOLE:
            column, there, live = columns_of_block(0, row, exists, n, mask, layout, BLOCK, SURE, THREADS)
            x = load_live(scores + start + column, there, live, mask, LOWEST).to(COMPUTE)
            top = tl.max(x, 1)[:, None]
            finite = live & (x != LOWEST)
            z = tl.where(finite, x - top, 0.0)
            mean = tl.sum(z, 1)[:, None] / tl.maximum(tl.sum(finite.to(COMPUTE), 1)[:, None], 1.0)
            e = tl.where(finite, _exponentials(z, mean, MARGIN, TRACE), 0.0)
            total = tl.sum(e, 1)[:, None]
            p = e / tl.where(total == 0, 1.0, total)
            tl.store(weights + start + column, p.to(weights.dtype.element_ty), mask=there)
        else:
            tops = tl.full([ROWS, BLOCK], LOWEST, COMPUTE)
            for first in range(0, n, BLOCK):
                column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                tops = tl.maximum(tops, load_live(scores + start + column, there, live, mask, LOWEST).to(COMPUTE))
            top = tl.max(tops, 1)[:, None]
            sums = tl.zeros([ROWS, BLOCK], COMPUTE)
            counts = tl.zeros([ROWS, BLOCK], COMPUTE)
            for first in range(0, n, BLOCK):
                column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                x = load_live(scores + start + column, there, live, mask, LOWEST).to(COMPUTE)
                finite = live & (x != LOWEST)
                sums += tl.where(finite, x - top, 0.0)
                counts += finite.to(COMPUTE)
            mean = tl.sum(sums, 1)[:, None] / tl.maximum(tl.sum(counts, 1)[:, None], 1.0)
            totals = tl.zeros([ROWS, BLOCK], COMPUTE)
            for first in range(0, n, BLOCK):
                column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                x = load_live(scores + start + column, there, live, mask, LOWEST).to(COMPUTE)
                totals += tl.where(live & (x != LOWEST), _exponentials(x - top, mean, MARGIN, TRACE), 0.0)
            total = tl.sum(totals, 1)[:, None]
            for first in range(0, n, BLOCK):
                column, there, live = columns_of_block(first, row, exists, n, mask, layout, BLOCK, None, THREADS)
                x = load_live(scores + start + column, there, live, mask, LOWEST).to(COMPUTE)
                e = tl.where(live & (x != LOWEST), _exponentials(x - top, mean, MARGIN, TRACE), 0.0)
                p = e / tl.where(total == 0, 1.0, total)
                tl.store(weights + start + column, p.to(weights.dtype.element_ty), mask=there)
