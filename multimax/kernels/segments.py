"""The row kernels on segments of a long tensor, whose entries are in any order, without padding.

The operators ``segment_forward`` and ``segment_backward`` are C++ (``cpu/segments.cpp``). ``scores`` [n, columns] are
float32 or float64, ``index`` int64 [n] gives each row's segment, 0 to ``count`` - 1, and the other arguments are those
of a row kernel (``kernels.attention.KernelArguments``), whose heads are 1 or the columns. Gradients of parameters have
the same bits in every run. When differentiated twice or given dual numbers, the operators use ``formula``.
"""

from typing import Any

import torch
from torch import Tensor

from multimax.formulas import multimax as multimax_formula
from multimax.formulas import segments
from multimax.kernels.operators import gradients, is_differentiated, make_differentiable

_ARGUMENTS = (
    "Tensor scores, Tensor index, int count, Tensor? first, Tensor? second, int[] powers, float number, str kind"
)
_library = torch.library.Library("multimax", "FRAGMENT")
_library.define(f"segment_forward({_ARGUMENTS}) -> Tensor")
_library.define(f"segment_backward(Tensor grad, Tensor weights, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)")
weigh = torch.ops.multimax.segment_forward


def formula(
    scores: Tensor,
    index: Tensor,
    count: int,
    first: Tensor | None,
    second: Tensor | None,
    powers: tuple[int, ...],
    number: float,
    kind: str,
) -> Tensor:
    """The weights in tensor operations, by sums and maxima of segments."""
    n, columns = scores.shape
    if kind == "multimax":
        assert first is not None
        assert second is not None
        by_head = scores.T.unsqueeze(1)  # [heads, 1, n]
        scores = multimax_formula.seglu(by_head, first, second, tuple(powers)).squeeze(1).T
    if columns != 1:
        index = (index[:, None] * columns + torch.arange(columns, device=index.device)).flatten()
    x, count = scores.reshape(-1), count * columns
    if kind == "multimax":
        weights = segments.softmax(x, index, count)
    elif kind == "evsoftmax":
        weights = segments.evsoftmax(x, index, count, number)
    else:
        weights = segments.entmax(x, index, count, number if first is None else first.expand(n, columns).reshape(-1))
    return weights.reshape(n, columns)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    scores, index, ctx.count, first, second, *ctx.others = inputs
    ctx.save_for_backward(output, scores, index, first, second)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weights, scores, index, first, second = ctx.saved_tensors
    if is_differentiated(grad):
        of_scores, *grads = gradients(
            lambda x, *parameters: formula(x, index, ctx.count, *parameters, *ctx.others), (scores, first, second), grad
        )
    else:
        of_scores, *grads = torch.ops.multimax.segment_backward(
            grad, weights, scores, index, ctx.count, first, second, *ctx.others
        )
        grads = [None if p is None else g for p, g in zip((first, second), grads, strict=True)]
    return of_scores, None, None, *grads, None, None, None


make_differentiable(_library, "segment_forward", _save, _differentiate, formula)
torch.library.register_fake("multimax::segment_forward", lambda scores, *_: torch.empty_like(scores))
torch.library.register_fake(
    "multimax::segment_backward",
    lambda grad, weights, scores, index, count, first, second, *_: (
        torch.empty_like(scores),
        *(scores.new_empty(0 if p is None else p.shape) for p in (first, second)),
    ),
)
