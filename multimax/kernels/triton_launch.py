"""What the Triton row kernels share: how they go through rows, masks and heads, and how they sum for parameters.

A kernel sees scores [..., n] as rows of n. A program takes one head and goes through tiles of ROWS of its rows, each in
a block of BLOCK columns; rows that do not fit one are gone through block by block, several times. Masks are read where
they are, by their strides. Sums for parameters stay in a program's registers, are written once to partial sums
[heads, programs, k] and added in a fixed order by one more program per head: no atomics, and the same bits in each run
on the same kind of device.

Nothing here waits for the device, and nothing is tuned at run time. Without a GPU the kernels run in Triton's
interpreter if TRITON_INTERPRET=1 was set before Triton was imported.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_PROGRAMS = 2**20  # tiles beyond are a program's next; far from the grid's limit, and from where sums of int32 end
MAX_BLOCK = 16384


@dataclass(frozen=True)
class Rows:
    """Rows of scores [..., n] by heads, the mask over them and the tiles that they are cut into."""

    device: torch.device
    count: int  # of rows of one head
    n: int
    heads: int
    queries: int  # rows of one head that follow each other
    mask: Tensor | None
    mask_layout: tuple[int, ...]  # see ``live_entries``
    tile_rows: int
    block: int
    num_warps: int

    @property
    def tiles(self) -> int:
        return triton.cdiv(self.count, self.tile_rows)

    def programs(self, per_processor: int | None = None) -> int:
        """Programs per head: one per tile, or as many in all as fill the device with ``per_processor`` on each."""
        if per_processor is None:
            return min(self.tiles, MAX_PROGRAMS)
        return min(self.tiles, triton.cdiv(processors(self.device) * per_processor, self.heads))

    def options(self) -> dict:
        """Arguments by which a kernel knows the rows."""
        index = tl.int64 if self.count * self.heads + MAX_PROGRAMS * self.tile_rows >= 2**31 else tl.int32
        return {
            "count": self.count,
            "n": self.n,
            "heads": self.heads,
            "queries": self.queries,
            "tiles": self.tiles,
            "mask": self.mask,
            "layout": self.mask_layout,
            "ROWS": self.tile_rows,
            "BLOCK": self.block,
            "WHOLE": self.n <= self.block,
            "INDEX": index,
            "num_warps": self.num_warps,
        }

    def on_device(self) -> AbstractContextManager:
        """Triton launches on the current device, which need not be the tensors'."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def rows_of(scores: Tensor, mask: Tensor | None, heads: int, max_block: int = MAX_BLOCK) -> Rows:
    """The rows of contiguous ``scores`` [..., n], or [..., heads, queries, n] if there is more than one head."""
    n = scores.shape[-1]
    block, tile_rows, num_warps = tile_shape(n, max_block)
    rows = scores.numel() // max(n, 1)
    layout: tuple[int, ...] = ()
    if mask is not None:
        mask, layout = _mask_layout(mask, scores.shape)
    return Rows(
        device=scores.device,
        count=rows // heads,
        n=n,
        heads=heads,
        queries=scores.shape[-2] if heads > 1 else 1,
        mask=mask,
        mask_layout=layout,
        tile_rows=tile_rows,
        block=block,
        num_warps=num_warps,
    )


def tile_shape(n: int, max_block: int) -> tuple[int, int, int]:
    """Columns of a block, rows of a tile and warps of a program for rows of ``n``.

    Up to 512 columns a row belongs to one warp, so that its sums need no shared memory; beyond, a thread has 16.
    """
    block = min(triton.next_power_of_2(max(n, 1)), max_block)
    if block <= 512:
        return block, max(512 // max(block, 32), 1), 1
    return block, 1, min(block // 512, 32)


def processors(device: torch.device) -> int:
    """Streaming multiprocessors of ``device``; a few for the interpreter, which runs programs one after the other."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _mask_layout(mask: Tensor, shape: torch.Size) -> tuple[Tensor, tuple[int, ...]]:
    """``mask`` as bytes, and how it lies over rows of ``shape``: see ``live_entries``. Copied only if it must be."""
    expanded = mask.expand(shape)
    merged: list[tuple[int, int]] = []  # (size, stride), from the last leading dimension to the first
    for size, stride in zip(reversed(shape[:-1]), reversed(expanded.stride()[:-1]), strict=True):
        if size == 1:
            continue
        if merged and stride == merged[-1][0] * merged[-1][1]:
            merged[-1] = (merged[-1][0] * size, merged[-1][1])
        else:
            merged.append((size, stride))
    if len(merged) > 3:
        expanded = expanded.contiguous()
        merged = [(math.prod(shape[:-1]), shape[-1])]
    (inner, inner_stride), (middle, middle_stride), (_, outer_stride) = (*merged, (1, 0), (1, 0), (1, 0))[:3]
    layout = (inner, middle, inner_stride, middle_stride, outer_stride, expanded.stride(-1))
    return expanded.view(torch.uint8), layout


@triton.jit
def rows_of_tile(tile, head, count, heads, queries, ROWS: tl.constexpr, INDEX: tl.constexpr):
    """Numbers [ROWS, 1] of a tile's rows among all rows, and whether they exist."""
    i = tl.cast(tile, INDEX) * ROWS + tl.arange(0, ROWS)[:, None]
    return (i // queries * heads + head) * queries + i % queries, i < count


@triton.jit
def live_entries(inside, row, column, mask, layout):
    """Which entries of rows [ROWS, 1] and columns [1, BLOCK] are ``inside`` the scores and not masked.

    The layout is the number of rows (inner) that the mask's inner stride spans, of such groups (middle), then the
    strides of the inner, middle and outer groups and of the columns.
    """
    if mask is None:
        return inside
    group = row // layout[0]
    offset = (row % layout[0]).to(tl.int64) * layout[2]
    offset += (group % layout[1]).to(tl.int64) * layout[3] + (group // layout[1]).to(tl.int64) * layout[4]
    return inside & (tl.load(mask + offset + column * layout[5], mask=inside, other=0) != 0)


@triton.jit
def add_partial_sums(partial, first, second, programs, K: tl.constexpr, BLOCK: tl.constexpr):
    """``first`` [heads, K] and ``second`` likewise, or None: the sums of ``partial`` [heads, programs, 1 or 2, K]."""
    head = tl.program_id(0)
    k = tl.arange(0, K)[None, :]
    WIDTH: tl.constexpr = K if second is None else 2 * K
    start_of = partial + head * programs * WIDTH + k
    total = tl.zeros([BLOCK, K], partial.dtype.element_ty)
    other = tl.zeros([BLOCK, K], partial.dtype.element_ty)
    for start in range(0, programs, BLOCK):
        i = start + tl.arange(0, BLOCK)[:, None]
        total += tl.load(start_of + i * WIDTH, mask=i < programs, other=0.0)
        if second is not None:
            other += tl.load(start_of + K + i * WIDTH, mask=i < programs, other=0.0)
    tl.store(first + head * K + k, tl.sum(total, 0)[None, :])
    if second is not None:
        tl.store(second + head * K + k, tl.sum(other, 0)[None, :])
