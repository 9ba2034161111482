"""Attention on the CPU in blocks that stay in its cache, so that no matrix of all queries by all keys is kept.

    multimax::blocked_attention(Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor? first, Tensor? second,
        int[] powers, float number, str kind, float scale) -> Tensor
    multimax::blocked_attention_backward(Tensor grad, the same) -> (Tensor, Tensor, Tensor, Tensor, Tensor)

A block is of some batches with all their heads, of some heads of a batch, or of some queries of a head, as its scores
fit. The scores of a block are made, weighed by a row kernel of ``multimax.kernels.operators`` and multiplied with the
values; the backward, which keeps nothing but the arguments, does so anew. Gradients of parameters are added up block
after block: the same bits in each run.

``kind`` is the row kernel; ``first`` and ``second`` are its tensors, ``powers`` and ``number`` what else it takes:

    multimax: ranges and ts [heads or 1, k]; powers      alpha_entmax: alpha [heads or 1]
    entmax: alpha as the number                          evsoftmax: epsilon as the number
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from multimax.kernels import operators

# Scores of a block per thread: two or three times these, with the block's other tensors, are to fit a core's cache.
BLOCK = 2**17


class Rows(NamedTuple):
    """How scores are weighed."""

    kind: str
    first: Tensor | None = None
    second: Tensor | None = None
    powers: tuple[int, ...] = ()
    number: float = 0.0

    def of_heads(self, heads: slice) -> "Rows":
        first, second = (p if p is None or len(p) == 1 else p[heads] for p in (self.first, self.second))
        return self._replace(first=first, second=second)

    def weigh(self, scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weights of scores [batch, heads, queries, keys], and what the backward wants besides."""
        kernels = torch.ops.multimax
        if self.kind == "multimax":
            return kernels.multimax_forward(scores, mask, self.first, self.second, self.powers)
        if self.kind == "alpha_entmax":
            return kernels.alpha_entmax_forward(scores, mask, self.first), None
        return getattr(kernels, f"{self.kind}_forward")(scores, mask, self.number), None

    def gradients(
        self, grad: Tensor, scores: Tensor, mask: Tensor | None, weights: Tensor, statistics: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Those by the scores, ``first`` and ``second``, from that by the weights."""
        kernels = torch.ops.multimax
        if self.kind == "multimax":
            return kernels.multimax_backward(
                grad, scores, mask, statistics, self.first, self.second, self.powers, weights
            )
        if self.kind == "alpha_entmax":
            return *kernels.alpha_entmax_backward(grad, weights, self.first), None
        alpha = self.number if self.kind == "entmax" else 1.0  # the backward of ev-softmax is softmax's
        return kernels.entmax_backward(grad, weights, alpha), None, None

    def differentiable(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """Weights that remember where they come from."""
        if self.kind == "multimax":
            assert self.first is not None
            assert self.second is not None
            return operators.multimax(scores, mask, self.first, self.second, self.powers)
        if self.kind == "evsoftmax":
            return operators.evsoftmax(scores, mask, self.number)
        return operators.entmax(scores, mask, self.number if self.first is None else self.first)


def blocked_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rows: Rows, scale: float
) -> Tensor:
    """Attention output [batch, heads, queries, value_dim] in the dtype of ``value``; its transpose(1, 2) is contiguous.

    Args:
        query: floating point [batch, heads, queries, dim]; under autocast all three are cast to its dtype.
        key: [batch, heads, keys, dim].
        value: [batch, heads, keys, value_dim].
        mask: bool, broadcastable to [batch, heads, queries, keys], True where a key may be attended to.
        rows: its tensors in float32, or float64 for float64.
        scale: of the scores.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if mask is not None:
        mask = mask.expand(*query.shape[:-1], key.shape[-2])
    return _forward(query, key, value, mask, rows.first, rows.second, rows.powers, rows.number, rows.kind, scale)


@torch.library.custom_op("multimax::blocked_attention", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    powers: Sequence[int],
    number: float,
    kind: str,
    scale: float,
) -> Tensor:
    rows = Rows(kind, first, second, tuple(powers), number)
    output = _fake_forward(query, key, value)
    cut = Cut(query, key)
    blocks = zip(cut.rows(rows), cut.by_heads(key, value), cut.by_queries(query, mask, output), strict=True)
    with torch.autocast("cpu", enabled=False):
        for of_heads, (k, v), (q, live, out) in blocks:
            weights, _ = of_heads.weigh(cut.scores(q, k, scale), live)
            torch.bmm(weights, v, out=out)
    return output


@_forward.register_fake
def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> Tensor:
    batch, heads, queries, _ = query.shape
    return value.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)


@torch.library.custom_op("multimax::blocked_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    powers: Sequence[int],
    number: float,
    kind: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by query, key, value, first and second; any of what is None."""
    rows = Rows(kind, first, second, tuple(powers), number)
    wide = torch.promote_types(query.dtype, torch.float32)
    by_query = _like(query)
    by_key, by_value = (torch.empty_like(t, dtype=wide, memory_format=torch.contiguous_format) for t in (key, value))
    by_first, by_second = (None if p is None else torch.zeros_like(p) for p in (first, second))
    totals = Rows(kind, by_first, by_second)
    cut = Cut(query, key)
    by_heads, by_queries = cut.by_heads(key, value, by_key, by_value), cut.by_queries(query, mask, grad, by_query)
    blocks = zip(cut.rows(rows), cut.rows(totals), by_heads, by_queries, strict=True)
    with torch.autocast("cpu", enabled=False):
        for i, (of_heads, total, (k, v, dk, dv), (q, live, g, dq)) in enumerate(blocks):
            beta = int(i % cut.pieces > 0)  # the first piece of a head's queries finds nothing to add to
            scores = cut.scores(q, k, scale)
            weights, statistics = of_heads.weigh(scores, live)
            _add_product(dv, weights.mT, g, beta)
            by_scores, *found = of_heads.gradients(torch.bmm(g, v.mT), scores, live, weights, statistics)
            dq.baddbmm_(by_scores, k, beta=0, alpha=scale)
            _add_product(dk, by_scores.mT, q, beta, scale)
            for tensor, of_block in zip((total.first, total.second), found, strict=True):
                if tensor is not None and of_block is not None:
                    tensor.add_(of_block)
    by_first, by_second = (query.new_empty((), dtype=wide) if t is None else t for t in (by_first, by_second))
    return by_query, by_key.to(key.dtype), by_value.to(value.dtype), by_first, by_second


@_backward.register_fake
def _fake_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    wide = torch.promote_types(query.dtype, torch.float32)
    by_first, by_second = (query.new_empty(() if p is None else p.shape, dtype=wide) for p in (first, second))
    return _like(query), _like(key), _like(value), by_first, by_second


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.powers, ctx.number, ctx.kind, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, mask, first, second = tensors = ctx.saved_tensors
    if torch.is_grad_enabled():
        rows = Rows(ctx.kind, first, second, tuple(ctx.powers), ctx.number)
        output = rows.differentiable((query * ctx.scale) @ key.mT, mask) @ value
        wanted = [t is not None and t.requires_grad for t in tensors]
        leaves = [t for t, is_wanted in zip(tensors, wanted, strict=True) if is_wanted]
        found = iter(torch.autograd.grad(output, leaves, grad, create_graph=True))
        return *(next(found) if is_wanted else None for is_wanted in wanted), None, None, None, None
    by_query, by_key, by_value, by_first, by_second = _backward(
        grad, *tensors, ctx.powers, ctx.number, ctx.kind, ctx.scale
    )
    by_first, by_second = None if first is None else by_first, None if second is None else by_second
    return by_query, by_key, by_value, None, by_first, by_second, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


class Cut:
    """Tensors [batch, heads, length, ...] cut into blocks: views of them, in one order for all."""

    def __init__(self, query: Tensor, key: Tensor):
        self.batch, self.heads, queries, _ = query.shape
        fitting = BLOCK * torch.get_num_threads() // max(1, key.shape[-2])  # rows
        heads_at_once = fitting // max(1, queries)
        self.heads_at_once = _even(self.heads, heads_at_once)
        self.queries_at_once = queries if heads_at_once else _even(queries, fitting)
        self.pieces = max(1, -(-queries // max(1, self.queries_at_once)))  # of the queries of a head
        self.buffer = query.new_empty(self.heads_at_once, self.queries_at_once, key.shape[-2])

    def by_heads(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Blocks of tensors over keys, each once for every piece of the queries."""
        parts = zip(*map(self._heads, tensors), strict=True)
        return (part for part in parts for _ in range(self.pieces))

    def by_queries(self, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Blocks of tensors over queries; None for one that is None."""
        return zip(*map(self._queries, tensors), strict=True)

    def _heads(self, x: Tensor) -> list[Tensor]:
        return [part for of_batch in x.unbind() for part in of_batch.split(self.heads_at_once)]

    def _queries(self, x: Tensor | None) -> Sequence[Tensor | None]:
        if x is None:
            return [None] * (self.batch * -(-self.heads // self.heads_at_once) * self.pieces)
        return [piece for part in self._heads(x) for piece in part.split(max(1, self.queries_at_once), 1)]

    def rows(self, rows: Rows) -> list[Rows]:
        parts = [rows.of_heads(slice(i, i + self.heads_at_once)) for i in range(0, self.heads, self.heads_at_once)]
        return [part for part in parts * self.batch for _ in range(self.pieces)]

    def scores(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """Those of a block, in the place of the block's before."""
        return self.buffer[: q.shape[0], : q.shape[1]].baddbmm_(q, k.mT, beta=0, alpha=scale)


def _even(length: int, most: int) -> int:
    """Size of as few parts of ``length`` as have at most ``most`` each, or one, and about as much as each other."""
    parts = -(-length // max(1, most))
    return max(1, -(-length // max(1, parts)))


def _add_product(total: Tensor, a: Tensor, b: Tensor, beta: int, scale: float = 1.0) -> None:
    """total = beta total + scale a @ b, summed in the dtype of ``total``."""
    if total.dtype == a.dtype:
        total.baddbmm_(a, b, beta=beta, alpha=scale)
    else:
        product = torch.bmm(a, b).to(total.dtype)
        torch.add(total, product, alpha=scale, out=total) if beta else torch.mul(product, scale, out=total)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
