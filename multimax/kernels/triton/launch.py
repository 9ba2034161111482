"""What the Triton row kernels share: how they iterate over rows, masks and heads, and how they sum over rows.

A kernel processes scores [..., n] as rows of n. Each program takes one head and loops over tiles of ROWS of its rows,
in blocks of BLOCK columns; a longer row is read block by block, several times. Masks are read in place, through their
strides. Gradients of parameters are summed in registers, written once per program as partial sums [heads, programs, k],
and added in a fixed order by one more program per head. So there are no atomics, and the bits are the same in every run
on the same kind of device.

Nothing here synchronises with the device or is tuned at run time. Without a GPU the kernels run in Triton's interpreter
if TRITON_INTERPRET=1 was set before Triton was imported.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_PROGRAMS = 2**20  # beyond this, programs loop over several tiles; far below the limits of the grid and of int32
PART = 4096  # columns in a block when a row needs several blocks
REGISTERS = 65536  # of a multiprocessor, shared by at least two programs, so that one loads while another computes
WARPS_PER_PROCESSOR = 32
MAX_THREADS = 1024  # of a program
SUMMING = {"BLOCK": 1024, "num_warps": 8, "enable_fp_fusion": True}  # options of ``add_partial_sums``


@dataclass(frozen=True)
class Rows:
    """The rows of scores [..., n] by head, their mask, and their division into tiles."""

    device: torch.device
    itemsize: int  # of the scores
    count: int  # rows per head
    n: int
    heads: int
    queries: int  # consecutive rows of one head
    mask: Tensor | None
    mask_layout: tuple[int, ...] | None  # see ``columns_of_block``
    tile_rows: int
    block: int
    num_warps: int

    @property
    def tiles(self) -> int:
        return triton.cdiv(self.count, self.tile_rows)

    def programs(self, summing: bool = False) -> int:
        """Programs per head: one per tile, or just enough to keep the device busy if they write partial sums."""
        if not summing:
            return min(self.tiles, MAX_PROGRAMS)
        per_processor = max(WARPS_PER_PROCESSOR // self.num_warps, 2)
        return min(self.tiles, triton.cdiv(processors(self.device) * per_processor, self.heads))

    def options(self, max_registers: int = 255) -> dict[str, Any]:
        """The arguments of a kernel that describe the rows."""
        threads = 32 * self.num_warps
        smallest = self.itemsize if self.mask is None else 1  # bytes of an item that is read; a thread reads 16 at once
        registers = min(max(REGISTERS // (2 * threads), 64), max_registers)
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
            "THREADS": threads,
            "SURE": self.n // threads * threads if self.n % 16 else None,
            "VECTOR": 1 if self.n % 16 else min(16 // smallest, self.block // threads),
            "INDEX": index,
            "num_warps": self.num_warps,
            "enable_fp_fusion": True,  # multiply-add; Triton's default depends on its version
            **({"maxnreg": registers} if self.itemsize < 8 and torch.version.hip is None else {}),
        }


def rows_of(scores: Tensor, mask: Tensor | None, heads: int, max_block: int, columns: int) -> Rows:
    """The rows of contiguous ``scores`` [..., n], or [..., heads, queries, n] if there is more than one head.

    A row of up to ``max_block`` entries is one block. A thread holds ``columns`` entries of a tile, or more if a
    program would otherwise have too many threads. Rows for which 32 threads are enough get one warp or share one, so
    their sums need no shared memory.
    """
    n = scores.shape[-1]
    block = max(triton.next_power_of_2(n), 32) if n <= max_block else min(max_block, PART)
    if mask is not None:  # with 16 bytes per read, its layout over threads would differ from that of half precision
        columns = min(columns, 8)
    columns = max(columns, block // MAX_THREADS)
    layout: tuple[int, ...] | None = None
    if mask is not None:
        mask, layout = _mask_layout(mask, scores.shape)
    return Rows(
        device=scores.device,
        itemsize=scores.itemsize,
        count=scores.numel() // n // heads,
        n=n,
        heads=heads,
        queries=scores.shape[-2] if heads > 1 else 1,
        mask=mask,
        mask_layout=layout,
        tile_rows=max(32 * columns // block, 1),
        block=block,
        num_warps=max(block // (32 * columns), 1),
    )


def processors(device: torch.device) -> int:
    """Streaming multiprocessors of ``device``; two for the interpreter, which runs one program after another."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _mask_layout(mask: Tensor, shape: torch.Size) -> tuple[Tensor, tuple[int, ...]]:
    """``mask`` as bytes, copied only if necessary, and its layout over rows of ``shape`` (see ``columns_of_block``)."""
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
    """Indices [ROWS, 1] of a tile's rows among all rows, and which rows exist."""
    i = tl.cast(tile, INDEX) * ROWS + tl.arange(0, ROWS)[:, None]
    return (i // queries * heads + head) * queries + i % queries, i < count


@triton.jit
def columns_of_block(
    first, row, exists, n, mask, layout, BLOCK: tl.constexpr, SURE: tl.constexpr, THREADS: tl.constexpr
):
    """Columns [1, BLOCK] from ``first`` on, which entries of rows [ROWS, 1] exist there, and which columns are live.

    If the block is a whole row, SURE is the largest multiple of the program's threads that is at most n; otherwise
    None. It tells the compiler which of a thread's columns are always within a row and which never are.

    The layout holds the number of rows in a group, the number of groups in a group of groups, and the mask's strides of
    rows, groups, groups of groups, and columns.
    """
    column = first + tl.arange(0, BLOCK)[None, :]
    within = column < n
    if SURE is not None:
        within = (column < SURE) | (within & (column < SURE + THREADS))
    there = within & exists
    live = within
    if mask is not None:
        group = row // layout[0]
        offset = (row % layout[0]).to(tl.int64) * layout[2]
        offset += (group % layout[1]).to(tl.int64) * layout[3] + (group // layout[1]).to(tl.int64) * layout[4]
        live = within & (tl.load(mask + offset + column.to(tl.int64) * layout[5], mask=there, other=0) != 0)
    return column, there, live


@triton.jit
def load_live(pointers, there, live, mask, other: tl.constexpr):
    """The entries that are ``there``, with ``other`` for dead ones."""
    values = tl.load(pointers, mask=there, other=other)
    if mask is not None:
        values = tl.where(live, values, other)
    return values


@triton.jit
def exponential(x):
    if x.dtype == tl.float64:
        return tl.exp(x)
    else:  # noqa: RET505 -- Triton compiles what follows a return
        return tl.exp2(x * 1.4426950408889634)  # unlike exp, it does no work for subnormal results


@triton.jit
def sums_by_thread(terms, THREADS: tl.constexpr, VECTOR: tl.constexpr):
    """Sums [ROWS, THREADS] of ``terms`` [ROWS, BLOCK] over the entries of each thread, VECTOR neighbours at a time.

    This is correct for any layout of the terms over threads; with this one the threads exchange nothing.
    """
    ROWS: tl.constexpr = terms.shape[0]
    spread = tl.reshape(terms, [ROWS, terms.shape[1] // (THREADS * VECTOR), THREADS, VECTOR])
    return tl.sum(tl.sum(spread, 3), 1)


@triton.jit
def add_partial_sums(partial, first, second, programs, K: tl.constexpr, BLOCK: tl.constexpr):
    """Sum ``partial`` [heads, programs, 1 or 2, K] into ``first`` [heads, K] and ``second``, likewise or None."""
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
