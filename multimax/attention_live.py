"""Attention in which dead entries, whatever they hold, affect nothing.

Matrix products run over dead entries too, and zero times NaN is NaN. So rows with NaN or infinities are kept out of the
products, and their effect is put in where they are live.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax.attention_backends import BACKENDS, Backend, Call, scores_of, weigh
from multimax.formulas.attention import beside_sink
from multimax.formulas.torch_private import is_readable
from multimax.kernels.row_kernels import Softmax


def attend(backend: Backend, call: Call) -> Tensor:
    """The output of ``backend`` as ``multimax.attention`` promises it."""
    if call.mask is None and not call.causal:
        return _without_mask(backend, call)
    finite = _are_finite(call.query, call.key, call.value)
    if finite:
        return backend.run(call)
    call = _without_dead(call)
    if finite is not None:
        return _attend_to_live(call)
    if call.query.device.type != "cpu" and backend.name != "reference":  # checking all tensors would slow it down
        return backend.run(call)
    return _over_finite_rows(backend, call)


def live_weights(call: Call) -> Tensor:
    """The weights of a call, [..., heads, queries, keys]."""
    live = call.whole_mask()
    if live is None or _are_finite(call.query, call.key):
        return weigh(call)
    query, key = (_is_finite(t) for t in (call.query, call.key))
    raw = scores_of(call).detach()  # mostly NaN, and without a gradient to lose
    finite = scores_of(_cleaned(call))
    return beside_sink(call.reweight, raw.where(~(query & key.mT) & live, finite), live, call.sink)


def _without_mask(backend: Backend, call: Call) -> Tensor:
    """Nothing is dead, but softmax's kernels disagree about a row of -inf: some give zeros, some equal weights."""
    has_kernel = isinstance(call.row_kernel, Softmax) and backend.name != "reference"
    can_be_infinite = call.softcap is None and call.sink is None and call.key.shape[-2] > 0
    if not (has_kernel and can_be_infinite) or call.query.device.type != "cpu":
        return backend.run(call)
    finite = _are_finite(call.query, call.key)
    if finite is not None:
        return backend.run(call) if finite else BACKENDS["reference"].run(call)
    no_number = ~_is_finite(call.query) | ~_is_finite(call.key).any(-2, keepdim=True)  # exactly where softmax gives NaN
    return backend.run(call).masked_fill(no_number, torch.nan)


def _attend_to_live(call: Call) -> Tensor:
    """The reference for tensors with NaN or infinities."""
    weights = live_weights(call)
    if call.dropout:
        weights = F.dropout(weights, call.dropout)
    value = _cleaned(call).value
    reached = (weights != 0).to(value.dtype) @ (~call.value.isfinite()).to(value.dtype) > 0
    return (weights @ call.value).detach().where(reached, weights @ value)


def _over_finite_rows(backend: Backend, call: Call) -> Tensor:
    """The output of ``backend``, NaN for queries that may attend to anything not finite; costs no extra product."""
    query, key, value = (_is_finite(t) for t in (call.query, call.key, call.value))
    poisoned = ~(key & value)
    if call.mask is None:  # causal: from the first poisoned key on
        poisoned = F.pad(poisoned, (0, 0, 0, call.query.shape[-2] - call.key.shape[-2]))
        reached = ~query | (poisoned.cumsum(-2) > 0)
    else:
        live = torch.atleast_2d(call.whole_mask())
        reached = (~query & live.any(-1, keepdim=True)) | ((live * poisoned.mT.to(torch.float32)).sum(-1, True) > 0)
    return backend.run(_cleaned(call)).masked_fill(reached, torch.nan)


def _without_dead(call: Call) -> Call:
    """The call with zeros for queries that may attend to no key and keys that no query may attend to."""
    if call.mask is None or call.mask.numel() == 0:
        return call
    mask = torch.atleast_2d(call.mask)
    queries, keys = mask.any(-1, keepdim=True), mask.any(-2, keepdim=True).mT
    query, key, value = (t.where(live, 0) for t, live in ((call.query, queries), (call.key, keys), (call.value, keys)))
    return replace(call, query=query, key=key, value=value)


def _cleaned(call: Call) -> Call:
    """The call with zeros for NaN and infinities."""
    query, key, value = (t.nan_to_num(0.0, 0.0, 0.0) for t in (call.query, call.key, call.value))
    return replace(call, query=query, key=key, value=value)


def _are_finite(*tensors: Tensor) -> bool | None:
    """Whether the tensors and their products are finite; None if unreadable, or if a GPU's host would wait."""
    if any(t.device.type != "cpu" or not is_readable(t) for t in tensors):
        return None
    # A norm takes one pass, and a finite one rules out NaN and infinities.
    return math.isfinite(sum(torch.linalg.vector_norm(t.detach()).item() for t in tensors))


def _is_finite(tensor: Tensor) -> Tensor:
    """Whether each row is finite, [..., 1]; ``isfinite().all()`` takes 15 times as long."""
    return (tensor.detach() * 0).sum(-1, keepdim=True) == 0
