"""Attention on the CPU in blocks that stay in cache, so that no matrix of all queries by all keys is kept.

The operators ``attention_forward`` and ``attention_backward`` are C++ (``cpu/attention.cpp``) around the row kernels,
in float32 or float64. ``bias`` is [batch or 1, heads, queries, keys], ``sink`` [heads], and a ``softcap`` of 0 means
none. The backward recomputes the weights from the arguments and the row kernel's ``statistics`` [2, batch, heads,
queries]. The gradients of a missing ``sink``, ``first`` or ``second`` are empty, and so is that of a bias unless
``of_bias``. Gradients of parameters have the same bits in every run. When differentiated twice or given dual numbers,
attention forms all scores and calls the row operators.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from multimax.formulas.attention import attention_scores, beside_sink
from multimax.formulas.multimax import by_head
from multimax.formulas.rows import autocast_dtype, compute_dtype
from multimax.formulas.torch_private import tell_flop_counters
from multimax.kernels import operators
from multimax.kernels.flops import attention_backward_flops, attention_flops
from multimax.kernels.operators import gradients, is_differentiated, make_differentiable
from multimax.kernels.row_kernels import Entmax, EvSoftmax, MultiMax, RowKernel, Softmax

_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor? bias, Tensor? sink, Tensor? first, Tensor? second,"
    " int[] powers, float number, str kind, float scale, float softcap"
)
_library = torch.library.Library("multimax", "FRAGMENT")
_library.define(f"attention_forward({_ARGUMENTS}) -> (Tensor output, Tensor statistics)")
_library.define(
    f"attention_backward(Tensor grad, Tensor statistics, bool of_bias, {_ARGUMENTS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_operators = torch.ops.multimax


class KernelArguments(NamedTuple):
    """A row kernel in the form that the operators take, with tensors in the compute dtype.

    multimax: ranges and ts [heads or 1, k]; powers      alpha_entmax: alpha [heads or 1]
    entmax: alpha as the number                          evsoftmax: epsilon as the number
    """

    first: Tensor | None = None
    second: Tensor | None = None
    powers: tuple[int, ...] = ()
    number: float = 0.0
    kind: str = "multimax"

    def weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """Weights by the row operators."""
        if self.kind == "multimax":
            assert self.first is not None
            assert self.second is not None
            return operators.multimax(scores, mask, self.first, self.second, self.powers)
        if self.kind == "evsoftmax":
            return operators.evsoftmax(scores, mask, self.number)
        return operators.entmax(scores, mask, self.number if self.first is None else self.first)


def kernel_arguments(row_kernel: RowKernel, query: Tensor) -> KernelArguments | None:
    """Arguments for a query [batch, heads, queries, dim], or None if the operators cannot take such parameters."""
    heads = query.shape[1]
    match row_kernel:
        case Softmax():  # a MultiMax whose ts are zero
            nothing = query.new_zeros(1, 2, dtype=compute_dtype(query))
            return KernelArguments(nothing, nothing, (1, 1))
        case MultiMax(ranges, ts, powers) if all(p.dim() == 1 or len(p) in (1, heads) for p in (ranges, ts)):
            return KernelArguments(*by_head(query, ranges, ts, powers), powers)
        case Entmax(Tensor() as alpha) if alpha.numel() == 1 or alpha.shape == (heads,):
            return KernelArguments(alpha.reshape(-1).to(compute_dtype(query)), kind="alpha_entmax")
        case Entmax(alpha) if not isinstance(alpha, Tensor) and 1 < alpha <= 2:
            return KernelArguments(number=float(alpha), kind="entmax")
        case EvSoftmax(epsilon):
            return KernelArguments(number=epsilon, kind="evsoftmax")
    return None


def blocked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    sink: Tensor | None,
    row_kernel: RowKernel,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Attention output [batch, heads, queries, value_dim] in the dtype of ``value``, or of autocast where it is on.

    The arguments are those of ``multimax.attention`` in four dimensions, with a row kernel that has
    ``kernel_arguments``. Half precision is computed in float32. The output's transpose(1, 2) is contiguous.
    """
    arguments = kernel_arguments(row_kernel, query)
    assert arguments is not None
    dtype = autocast_dtype(value) or value.dtype
    tensors = (t.to(compute_dtype(query)) for t in (query, key, value))
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    if bias is not None:
        bias = bias[(None,) * (4 - bias.dim())].expand(-1, heads, queries, keys).to(compute_dtype(query))
    if sink is not None:
        sink = sink.reshape(-1).expand(heads).to(compute_dtype(query))
    tell_flop_counters(FLOPS)
    return _operators.attention_forward(*tensors, mask, bias, sink, *arguments, scale, softcap or 0.0)[0].to(dtype)


def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch, heads, queries, _dim = query.shape
    output = value.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
    return output, query.new_empty(2, batch, heads, queries)


def _fake_backward(grad: Tensor, statistics: Tensor, of_bias: bool, *inputs: Any) -> tuple[Tensor, ...]:
    query, key, value, _mask, bias, *parameters = inputs[:8]
    others = (query.new_empty(0 if p is None else p.shape) for p in (bias if of_bias else None, *parameters))
    return *map(torch.empty_like, (query, key, value)), *others


torch.library.register_fake("multimax::attention_forward", _fake_forward)
torch.library.register_fake("multimax::attention_backward", _fake_backward)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.powers, ctx.number, ctx.kind, ctx.scale, ctx.softcap = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *tensors)


def _by_whole_scores(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    sink: Tensor | None,
    *arguments: Any,
) -> Tensor:
    *of_kernel, scale, softcap = arguments
    scores = attention_scores(query, key, bias=bias, scale=scale, softcap=softcap or None)
    return beside_sink(KernelArguments(*of_kernel).weigh, scores, mask, sink) @ value


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    statistics, *tensors = ctx.saved_tensors
    others = tuple(ctx.powers), ctx.number, ctx.kind, ctx.scale, ctx.softcap
    if is_differentiated(grad):
        return *gradients(lambda *again: _by_whole_scores(*again, *others), tensors, grad), None, None, None, None, None
    tell_flop_counters(FLOPS)
    bias = tensors[4]
    of_bias = bias is not None and bias.requires_grad
    *grads, grad_bias, grad_sink, grad_first, grad_second = _operators.attention_backward(
        grad, statistics, of_bias, *tensors, *others
    )
    of_parameters = (
        None if p is None else g for p, g in zip(tensors[5:], (grad_sink, grad_first, grad_second), strict=True)
    )
    return *grads, None, grad_bias if of_bias else None, *of_parameters, None, None, None, None, None


def _whole(*inputs: Any) -> tuple[Tensor, Tensor]:
    return _by_whole_scores(*inputs), _fake_forward(*inputs)[1]


make_differentiable(_library, "attention_forward", _save, _differentiate, _whole)


FLOPS: dict[Any, Any] = {
    _operators.attention_forward: attention_flops,
    _operators.attention_backward: lambda grad, statistics, of_bias, *inputs, out_val=None: attention_backward_flops(
        *inputs
    ),
}
