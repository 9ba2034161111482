"""The custom operators behind the reweighting functions (``_SCHEMAS``), with the same names on the CPU and on CUDA.

For all of them:

- ``scores`` [..., n] is floating point with any strides. Half precision is computed in float32 (below: the compute
  dtype), and the weights, in the scores' dtype, are rounded once. Weights and gradients are contiguous.
- ``mask`` is bool, True = live, with as many dimensions as the scores (see ``aligned``), sizes equal to theirs or 1,
  and any strides. Dead entries may hold anything; they and rows without a live entry get weight and gradient zero. Any
  size may be zero.
- Parameters are [heads, ...] in the compute dtype, with heads = 1 or scores.shape[-3]. Their gradients have the same
  shape and dtype, and the same bits in every run.
- ``grad`` has the shape and dtype of the weights and any strides.

``ranges`` and ``ts`` are [heads, k] with k = len(powers); powers is (1, 1), (2, 2) or (1, 1, 2, 2). ``statistics`` [2,
*scores.shape[:-1]], in the compute dtype, holds for each row the largest modulated live score m and s = 1 / sum exp(y -
m), from which the backward recomputes p = exp(y - m) * s without the rounding of the weights; both are 0 in a row
without a live entry. On a CPU it is faster to read the weights, so there the backward gets them too if they are in the
compute dtype. ``alpha`` is a number or [heads], in [1, 2]; other values are refused on a CPU and give NaN in a tensor
on CUDA. The backward of ev-softmax is softmax's, which is that of entmax at alpha = 1.

The CPU's operators are C++ (``cpu/rows.cpp``); CUDA's are the functions of the same names in ``triton.rows``, called
without ``weights`` if these are None. When differentiated twice or given dual numbers, which may reach a graph compiled
without them, each uses its formula in tensor operations.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from multimax.formulas import entmax as entmax_formula
from multimax.formulas import evsoftmax as evsoftmax_formula
from multimax.formulas import multimax as multimax_formula
from multimax.formulas import softmax as softmax_formula
from multimax.formulas.rows import over_live_entries, per_head
from multimax.formulas.torch_private import are_dual, below_autograd

_SCHEMAS = {
    "multimax_forward": "(Tensor scores, Tensor? mask, Tensor ranges, Tensor ts, int[] powers)"
    " -> (Tensor weights, Tensor statistics)",
    "multimax_backward": "(Tensor grad, Tensor scores, Tensor? mask, Tensor statistics, Tensor ranges, Tensor ts,"
    " int[] powers, Tensor? weights=None) -> (Tensor, Tensor, Tensor)",
    "entmax_forward": "(Tensor scores, Tensor? mask, float alpha) -> Tensor",
    "entmax_backward": "(Tensor grad, Tensor weights, float alpha) -> Tensor",
    "alpha_entmax_forward": "(Tensor scores, Tensor? mask, Tensor alpha) -> Tensor",
    "alpha_entmax_backward": "(Tensor grad, Tensor weights, Tensor alpha) -> (Tensor, Tensor)",
    "evsoftmax_forward": "(Tensor scores, Tensor? mask, float epsilon) -> Tensor",
}

_library = torch.library.Library("multimax", "DEF")
_operators = torch.ops.multimax


def _on_cuda(name: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        from multimax.kernels.triton import rows as triton_rows  # imports Triton, which only CUDA tensors need

        return getattr(triton_rows, name)(*arguments)

    return call


for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _on_cuda(_name), "CUDA")


def multimax(scores: Tensor, mask: Tensor | None, ranges: Tensor, ts: Tensor, powers: Sequence[int]) -> Tensor:
    """Weights of ``scores``; differentiable with respect to scores, ranges and ts."""
    return _call("multimax_forward", scores, aligned(mask, scores), ranges, ts, powers)


def entmax(scores: Tensor, mask: Tensor | None, alpha: float | Tensor) -> Tensor:
    """Weights of ``scores`` at ``alpha``, a number or a tensor [heads]; differentiable with respect to tensors."""
    if isinstance(alpha, Tensor):
        return _call("alpha_entmax_forward", scores, aligned(mask, scores), alpha)
    return _call("entmax_forward", scores, aligned(mask, scores), alpha)


def evsoftmax(scores: Tensor, mask: Tensor | None, epsilon: float) -> Tensor:
    """Weights of ``scores``; differentiable with respect to them."""
    return _call("evsoftmax_forward", scores, aligned(mask, scores), epsilon)


def aligned(mask: Tensor | None, scores: Tensor) -> Tensor | None:
    """``mask`` with as many dimensions as ``scores``."""
    return None if mask is None else mask[(None,) * (scores.dim() - mask.dim())]


def is_differentiated(grad: Tensor) -> bool:
    """Whether what a backward makes of ``grad`` is differentiated in turn: a graph is kept, or it has a tangent."""
    return torch.is_grad_enabled() or are_dual(grad)


def gradients(
    function: Callable[..., Tensor], inputs: Iterable[Tensor | None], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Differentiable gradients of ``function(*inputs)`` for the inputs that require one."""
    graph = torch.is_grad_enabled()
    with torch.autocast(grad.device.type, enabled=False), torch.enable_grad():
        # An input may be another one as well, or computed from it, and its gradient here is not the whole one.
        aliases = [t.view_as(t) if t is not None and t.requires_grad else t for t in inputs]
        output = function(*aliases)
        wanted = [t for t in aliases if t is not None and t.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, grad, create_graph=graph))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in aliases)


def _like(scores: Tensor) -> Tensor:
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


def _fake_multimax_forward(scores: Tensor, mask: Tensor | None, ranges: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _like(scores), ranges.new_empty(2, *scores.shape[:-1])


_FAKES: dict[str, Callable[..., Any]] = {
    "multimax_forward": _fake_multimax_forward,
    "multimax_backward": lambda grad, scores, mask, statistics, ranges, ts, *_: (
        _like(scores),
        _like(ranges),
        _like(ts),
    ),
    "alpha_entmax_backward": lambda grad, weights, alpha: (_like(weights), _like(alpha)),
}
for _name in _SCHEMAS:
    torch.library.register_fake(f"multimax::{_name}", _FAKES.get(_name, lambda first, *_: _like(first)))


def _save_multimax(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    scores, mask, ranges, ts, ctx.powers = inputs
    weights, statistics = output
    ctx.mark_non_differentiable(statistics)
    unrounded = weights if weights.device.type == "cpu" and weights.dtype == ranges.dtype else None
    ctx.save_for_backward(scores, mask, statistics, ranges, ts, unrounded)


def _multimax_backward(ctx: Any, grad: Tensor, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
    scores, mask, statistics, ranges, ts, weights = ctx.saved_tensors
    if is_differentiated(grad):
        grad_scores, grad_ranges, grad_ts = gradients(
            lambda x, r, t: multimax_formula.weigh(x, r, t, mask, ctx.powers), (scores, ranges, ts), grad
        )
    else:
        grad_scores, grad_ranges, grad_ts = _operators.multimax_backward(
            grad, scores, mask, statistics, ranges, ts, ctx.powers, weights
        )
    return grad_scores, None, grad_ranges, grad_ts, None


def _save_entmax(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    alpha = inputs[2]
    is_tensor = isinstance(alpha, Tensor)
    ctx.alpha = None if is_tensor else alpha
    ctx.set_materialize_grads(False)  # a Fenchel-Young loss sends no gradient through the weights
    ctx.save_for_backward(output, *([alpha] if is_tensor else []))


def _entmax_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    weights, *tensor = ctx.saved_tensors
    alpha = tensor[0] if tensor else ctx.alpha
    if is_differentiated(grad):
        aligned_alpha = per_head("alpha", alpha, weights) if tensor else alpha
        grad_scores, grad_alpha = entmax_formula.gradient(grad, weights, aligned_alpha, of_alpha=bool(tensor))
        return grad_scores, None, None if grad_alpha is None else grad_alpha.reshape(-1)
    if not tensor:
        return _operators.entmax_backward(grad, weights, alpha), None, None
    grad_scores, grad_alpha = _operators.alpha_entmax_backward(grad, weights, alpha)
    return grad_scores, None, grad_alpha


def _save_weights(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _softmax_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (weights,) = ctx.saved_tensors
    if is_differentiated(grad):
        return softmax_formula.gradient(grad, weights), None, None
    # The bits of torch's own backward depend on the number of threads, and it takes twice as long on an H100.
    return _operators.entmax_backward(grad, weights, 1.0), None, None


def _multimax_formula(scores: Tensor, mask: Tensor | None, ranges: Tensor, ts: Tensor, powers: Sequence[int]) -> Any:
    return multimax_formula.weigh(scores, ranges, ts, mask, tuple(powers)), ranges.new_empty(2, *scores.shape[:-1])


def _entmax_formula(scores: Tensor, mask: Tensor | None, alpha: float | Tensor) -> Tensor:
    aligned_alpha = per_head("alpha", alpha, scores) if isinstance(alpha, Tensor) else alpha
    return over_live_entries(lambda x: entmax_formula.weigh(x, aligned_alpha), scores, mask)


def _evsoftmax_formula(scores: Tensor, mask: Tensor | None, epsilon: float) -> Tensor:
    return over_live_entries(lambda x: evsoftmax_formula.weigh(x, epsilon), scores, mask)


_DIFFERENTIATED: dict[str, tuple[Callable[..., None], Callable[..., Any], Callable[..., Any]]] = {
    "multimax_forward": (_save_multimax, _multimax_backward, _multimax_formula),
    "entmax_forward": (_save_entmax, _entmax_backward, _entmax_formula),
    "alpha_entmax_forward": (_save_entmax, _entmax_backward, _entmax_formula),
    "evsoftmax_forward": (_save_weights, _softmax_backward, _evsoftmax_formula),
}
_functions: dict[str, type[torch.autograd.Function]] = {}


def _call(name: str, *inputs: Any) -> Tensor:
    """The weights from an operator, by its autograd function directly unless a compiler is tracing."""
    output = getattr(_operators, name)(*inputs) if torch.compiler.is_compiling() else _functions[name].apply(*inputs)
    return output if isinstance(output, Tensor) else output[0]


def make_differentiable(
    library: torch.library.Library,
    name: str,
    save: Callable[..., None],
    backward: Callable[..., Any],
    formula: Callable[..., Any],
) -> type[torch.autograd.Function]:
    """Give an operator an autograd function, and use its formula for dual numbers.

    An autograd function registered by torch.library drops the tangents of dual numbers and takes twice as long for
    small tensors.
    """
    operator = getattr(_operators, name).default

    def forward(ctx: Any, *inputs: Any) -> Any:
        with below_autograd():
            output = operator(*inputs)
        save(ctx, inputs, output)
        return output

    # The name appears in graphs and profiles, where torch appends "Backward".
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: type[torch.autograd.Function] = type(
        f"multimax::{name.removesuffix('_forward')}", (torch.autograd.Function,), members
    )
    library.impl(name, lambda *inputs: formula(*inputs) if are_dual(*inputs) else function.apply(*inputs), "Autograd")
    return function


for _name, (_save, _backward, _formula) in _DIFFERENTIATED.items():
    _functions[_name] = make_differentiable(_library, _name, _save, _backward, _formula)
