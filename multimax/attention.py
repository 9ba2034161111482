"""Scaled dot-product attention with any reweighting.

    scores  = query @ key^T * scale
    scores  = softcap * tanh(scores / softcap) + bias    # if given
    weights = reweight(scores, mask)
    output  = dropout(weights) @ value

The mask is never added to the scores. It is passed to the reweighting, because only the function knows what a missing
entry means: an ev-softmax whose mean includes -inf, for example, is just a softmax.

``multimax.attention_backends`` has several ways to compute this. "reference" is the lines above and takes any call; the
others agree with it up to rounding and say, for each call, whether they can serve it.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax.attention_backends import BACKENDS, Backend, Call
from multimax.attention_live import attend, live_weights
from multimax.formulas.attention import attention_scores
from multimax.formulas.rows import autocast_unites, broadcasts, check_count, check_floating, check_mask, check_number
from multimax.reweight import Reweighting, create, entmax15, evsoftmax, softmax, sparsemax
from multimax.reweight._base import may_bypass

# These functions are replaced by their modules, which have fast paths.
MODULES: dict[Callable[..., Tensor], Reweighting] = {
    f: create(f.__name__) for f in (softmax, sparsemax, entmax15, evsoftmax)
}

__all__ = ["BACKENDS", "attention", "attention_path", "attention_scores", "attention_weights"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    reweight: Callable[..., Tensor],
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
    window: int | None = None,
    dropout: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Attention output [..., heads, queries, value_dim] in the dtype of ``value``.

    Pad sequences of different lengths and mark what is live in a mask:
    ``mask = (torch.arange(keys) < lengths[:, None])[:, None, None]``. Packed sequences need a mask that says which
    queries and keys belong together; nested tensors are refused.

    A query that may attend to no key gets zeros. Whatever a key holds, even NaN, never reaches a query that may not
    attend to it, in outputs or in gradients. On a GPU, backends other than "reference" only promise this for keys that
    no query may attend to and for queries that may attend to no key; everything else should be finite there.

    Live entries should be finite. A row whose live scores are all -inf gets the weights that ``reweight`` gives such a
    row: equal ones from MultiMax, temperature and scalable softmax, zeros from sigmoid, ReLU, softpick,
    softmax-plus-one and a sink, NaN from the others. There are two exceptions. With a mask or ``causal``, in a traced
    graph, under ``vmap`` or with "reference" on a GPU, a query gets NaN if it, or a key or value that it may attend to,
    holds NaN or infinities. And softmax's kernels on a GPU may give zeros or equal weights.

    Args:
        query: floating point [..., heads, queries, dim].
        key: [..., heads, keys, dim] in the dtype of ``query``, unless autocast is on; leading dimensions broadcast.
            Its number of heads may be a divisor of the query's (grouped heads): each then serves several consecutive
            heads of the query.
        value: [..., heads, keys, value_dim], likewise.
        reweight: a ``Reweighting``, or a function f(scores, mask=...) that keeps its contract. ``softmax``,
            ``sparsemax``, ``entmax15`` and ``evsoftmax`` are as fast as their modules.
        mask: bool, True where a key may be attended to, broadcastable to [..., heads, queries, keys].
        causal: query i attends at most to keys 0 to i; fused kernels are faster with this than with the equivalent
            mask.
        bias: added to the scores, to which it broadcasts, such as a relative-position bias. It is not a mask: it must
            be finite where the mask is True, and may hold anything where it is False.
        scale: factor of the scores, not of the bias; dim ** -0.5 if None.
        softcap: bound on the scaled products of query and key, before the bias is added, as in Gemma 2; above 0.
        sink: floating point [heads] or one element: the score of one more key, always live, whose value is zero
            (gpt-oss). The other weights lack its share.
        window: query i attends only to keys j with abs(i - j) < window; with ``causal``, that is its own key and the
            window - 1 before it.
        dropout: probability of dropping a weight, at least 0 and below 1; pass 0 outside training.
        backend: the name of one of ``BACKENDS`` or of the function's own backends; None for what ``attention_path``
            returns. Only "reference" and "blocked" can be differentiated more than once. On a CPU, a call with a mask
            whose tensors hold NaN or infinities is computed by tensor operations, whatever the backend.

    Raises:
        TypeError, ValueError: an argument that does not fit, in one line that names it and before anything is computed;
            an unknown backend, or one that cannot serve this call.
    """
    call = _call(query, key, value, reweight, mask, causal, bias, scale, softcap, sink, window, dropout)
    return attend(_chosen(call, backend), call)


def attention_weights(
    query: Tensor, key: Tensor, reweight: Callable[..., Tensor], mask: Tensor | None = None, **options: Any
) -> Tensor:
    """The weights [..., heads, queries, keys] with which ``attention`` sums the values, without dropout.

    Args:
        query, key, reweight, mask: as for ``attention``.
        options: its ``causal``, ``bias``, ``scale``, ``softcap``, ``sink`` and ``window``.
    """
    call = _call(query, key, key, reweight, mask, **options)
    return F.pad(live_weights(call), (0, key.shape[-2] - call.key.shape[-2]))


def attention_path(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    reweight: Callable[..., Tensor],
    mask: Tensor | None = None,
    **options: Any,
) -> str:
    """The backend that ``attention`` uses for these arguments if none is named; takes the arguments of ``attention``.

    Softmax uses "sdpa" wherever it can. Other functions use a kernel where it is faster or saves memory, unless
    ``multimax.kernels`` is set to "eager".
    """
    return _chosen(_call(query, key, value, reweight, mask, **options), None).name


def _chosen(call: Call, name: str | None) -> Backend:
    reweight = call.reweight
    own: tuple[Backend, ...] = getattr(reweight, "attention_backends", ())
    if own and not may_bypass(reweight, "attention_backends"):
        own = ()
    if name is None:
        return next(b for b in (*own, *BACKENDS.values()) if b.pays(call) and b.obstacle(call) is None)
    if not isinstance(name, str):
        raise TypeError(f"backend must be a name or None, got {type(name).__name__}")
    backends = {b.name: b for b in own} | BACKENDS
    if name not in backends:
        raise ValueError(f"there is no backend {name!r}; it must be one of {', '.join(backends)}")
    if reason := backends[name].obstacle(call):
        raise ValueError(f"backend {name!r} cannot serve: {reason}; leave it out to use one that can")
    return backends[name]


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    reweight: Callable[..., Tensor],
    mask: Tensor | None,
    causal: bool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> Call:
    """The checked arguments; raises TypeError or ValueError, in one line."""
    if isinstance(reweight, type):
        raise TypeError(f"reweight must be a module or a function, got the class {reweight.__name__}: make one of it")
    if not callable(reweight):
        hint = f"; did you mean reweight.create({reweight!r})?" if isinstance(reweight, str) else ""
        raise TypeError(f"reweight must be a module or a function, got {type(reweight).__name__}{hint}")
    if not isinstance(causal, bool):
        raise TypeError(f"causal must be a bool, got {type(causal).__name__}; pass a mask as mask=")
    check_number("dropout", dropout)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
    _check_tensors(query, key, value)
    key, value = (_per_query_head(query, t) for t in (key, value))
    shape = _scores_shape(query, key, value)
    if scale is None:
        scale = query.shape[-1] ** -0.5 if query.shape[-1] else 1.0  # a tensor to torch.jit.trace
    else:
        check_number("scale", scale)
    if mask is not None:
        check_mask(mask, shape, query.device)
    if bias is not None:
        _check_bias(bias, query, shape)
    if softcap is not None:
        check_number("softcap", softcap, above=0)
    if sink is not None:
        check_floating("sink", sink, query.device)
        if sink.dim() > 1 or sink.numel() not in (1, shape[-3] if len(shape) > 2 else 1):
            raise ValueError(f"sink of shape {tuple(sink.shape)} is neither one element nor one per head of the query")
    if window is not None:
        mask = _within(window, shape, mask, query.device)
    if causal and key.shape[-2] > query.shape[-2]:  # no query attends to the keys after the last one
        queries = query.shape[-2]
        key, value = key[..., :queries, :], value[..., :queries, :]
        mask, bias = (t if t is None or t.dim() == 0 else t[..., :queries] for t in (mask, bias))
    reweight = MODULES.get(reweight, reweight) if isinstance(reweight, FunctionType) else reweight
    row_kernel = reweight.row_kernel() if may_bypass(reweight, "row_kernel") else None
    return Call(query, key, value, reweight, row_kernel, mask, bias, causal, scale, softcap, sink, dropout)


def _check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, tensor in {"query": query, "key": key, "value": value}.items():
        check_floating(name, tensor)
        if tensor.dim() < 2:
            raise ValueError(f"{name} must be [..., length, dim], got {tuple(tensor.shape)}")
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on {query.device}, where the query is, got {tensor.device}")
        if tensor.dtype != query.dtype and not autocast_unites(query, tensor):
            raise TypeError(f"{name} must be in the dtype of the query, {query.dtype}, got {tensor.dtype}")
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(f"query and key must have the same last dimension, got {query.shape[-1]} and {key.shape[-1]}")
    if value.shape[-2] != key.shape[-2]:
        raise ValueError(f"key and value must have the same length, got {key.shape[-2]} and {value.shape[-2]}")


def _per_query_head(query: Tensor, tensor: Tensor) -> Tensor:
    """A key or value with grouped heads, each repeated for the query heads that it serves."""
    if min(query.dim(), tensor.dim()) < 3:
        return tensor
    heads, groups = query.shape[-3], tensor.shape[-3]
    if heads == groups or groups == 0 or heads % groups:
        return tensor
    sizes = (*tensor.shape[:-2], heads // groups, *tensor.shape[-2:])
    return tensor.unsqueeze(-3).expand(sizes).flatten(-4, -3)


def _scores_shape(query: Tensor, key: Tensor, value: Tensor) -> torch.Size:
    """[..., heads, queries, keys], if batches and heads broadcast."""
    leading = query.shape[:-2]
    if not key.shape[:-2] == leading == value.shape[:-2]:
        try:
            leading = torch.broadcast_shapes(leading, key.shape[:-2], value.shape[:-2])
        except RuntimeError:
            shapes = ", ".join(str(tuple(t.shape)) for t in (query, key, value))
            raise ValueError(
                f"batches and heads of query, key and value neither broadcast nor group: {shapes}"
            ) from None
    return torch.Size((*leading, query.shape[-2], key.shape[-2]))


def _within(window: int, shape: torch.Size, mask: Tensor | None, device: torch.device) -> Tensor:
    """``mask``, restricted to the window."""
    check_count("window", window)
    queries, keys = (torch.arange(n, device=device) for n in shape[-2:])
    near = (queries[:, None] - keys).abs() < window
    return near if mask is None else near & mask


def _check_bias(bias: Tensor, query: Tensor, shape: torch.Size) -> None:
    check_floating("bias", bias, query.device)
    fits = torch.promote_types(bias.dtype, query.dtype) == query.dtype
    if not fits and not autocast_unites(query, bias):
        raise TypeError(f"bias must be in the dtype of the query, {query.dtype}, got {bias.dtype}")
    if not broadcasts(bias.shape, shape):
        raise ValueError(f"bias of shape {tuple(bias.shape)} does not broadcast to scores of shape {tuple(shape)}")
