"""Attention on the CPU in blocks that stay in its cache, so that no matrix of all queries by all keys is kept.

    multimax::attention_forward(Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor? first, Tensor? second,
        int[] powers, float number, str kind, float scale) -> (Tensor output, Tensor statistics)
    multimax::attention_backward(Tensor grad, Tensor statistics, the same)
        -> (Tensor, Tensor, Tensor, Tensor, Tensor)

They are C++ (``cpu/attention.cpp``) around the row kernels, in float32 or float64. The backward makes the weights anew:
it has the arguments and, [2, batch, heads, queries], what MultiMax's row kernel calls its statistics. Where there is no
``first`` or ``second``, its gradient by it is empty. Gradients of parameters have the same bits run to run.

``kind`` is the row kernel; ``first`` and ``second`` are its tensors, ``powers`` and ``number`` what else it takes:

    multimax: ranges and ts [heads or 1, k]; powers      alpha_entmax: alpha [heads or 1]
    entmax: alpha as the number                          evsoftmax: epsilon as the number
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from multimax.kernels import operators

_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor? first, Tensor? second, int[] powers, float number,"
    " str kind, float scale"
)
_library = torch.library.Library("multimax", "FRAGMENT")
_library.define(f"attention_forward({_ARGUMENTS}) -> (Tensor, Tensor)")
_library.define(
    f"attention_backward(Tensor grad, Tensor statistics, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_operators = torch.ops.multimax


class Rows(NamedTuple):
    """How scores are weighed."""

    kind: str
    first: Tensor | None = None
    second: Tensor | None = None
    powers: tuple[int, ...] = ()
    number: float = 0.0

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
    """Attention output [batch, heads, queries, value_dim] in the dtype of ``value``, or of autocast where it is on.

    Half precision is computed in float32. The output's transpose(1, 2) is contiguous.

    Args:
        query: floating point [batch, heads, queries, dim].
        key: [batch, heads, keys, dim].
        value: [batch, heads, keys, value_dim].
        mask: bool, broadcastable to [batch, heads, queries, keys], True where a key may be attended to.
        rows: its tensors in float32, or float64 for float64.
        scale: of the scores.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else value.dtype
    wide = torch.promote_types(query.dtype, torch.float32)
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
    tensors = query.to(wide), key.to(wide), value.to(wide)
    return _operators.attention_forward(*tensors, mask, *rows[1:], rows.kind, scale)[0].to(dtype)


def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch, heads, queries, _dim = query.shape
    output = value.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
    return output, query.new_empty(2, batch, heads, queries)


def _fake_backward(
    grad: Tensor,
    statistics: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    *_: Any,
) -> tuple[Tensor, ...]:
    by_parameters = (query.new_empty(0 if p is None else p.shape) for p in (first, second))
    return *map(torch.empty_like, (query, key, value)), *by_parameters


torch.library.register_fake("multimax::attention_forward", _fake_forward)
torch.library.register_fake("multimax::attention_backward", _fake_backward)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.powers, ctx.number, ctx.kind, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *tensors)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    statistics, *tensors = ctx.saved_tensors
    query, key, value, mask, first, second = tensors
    if torch.is_grad_enabled():
        rows = Rows(ctx.kind, first, second, tuple(ctx.powers), ctx.number)
        output = rows.differentiable((query * ctx.scale) @ key.mT, mask) @ value
        wanted = [t is not None and t.requires_grad for t in tensors]
        leaves = [t for t, is_wanted in zip(tensors, wanted, strict=True) if is_wanted]
        found = iter(torch.autograd.grad(output, leaves, grad, create_graph=True))
        return *(next(found) if is_wanted else None for is_wanted in wanted), None, None, None, None
    by_query, by_key, by_value, by_first, by_second = _operators.attention_backward(
        grad, statistics, *tensors, ctx.powers, ctx.number, ctx.kind, ctx.scale
    )
    by_first, by_second = None if first is None else by_first, None if second is None else by_second
    return by_query, by_key, by_value, None, by_first, by_second, None, None, None, None


torch.library.register_autograd("multimax::attention_forward", _differentiate, setup_context=_save)
