"""The scores of attention, and the weights of the keys beside a sink."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax.formulas.rows import per_head


def attention_scores(
    query: Tensor, key: Tensor, *, bias: Tensor | None = None, scale: float | None = None, softcap: float | None = None
) -> Tensor:
    """Scores [..., heads, queries, keys] of query [..., heads, queries, dim] and key [..., heads, keys, dim].

    ``bias`` is a finite term of the scores, such as a relative-position bias; ``scale`` defaults to ``dim ** -0.5``.
    Neither ``scale`` nor ``softcap``, the bound of the scaled products, applies to the bias.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores if bias is None else scores + bias


def beside_sink(reweight: Callable[..., Tensor], scores: Tensor, mask: Tensor | None, sink: Tensor | None) -> Tensor:
    """``reweight(scores, mask=mask)`` with one more key, whose score is ``sink`` and whose weight is left out."""
    if sink is None:
        return reweight(scores, mask=mask)
    column = per_head("sink", sink, scores).to(scores.dtype).expand(*scores.shape[:-1], 1)
    if mask is not None:
        mask = F.pad(mask.expand(torch.broadcast_shapes(mask.shape, scores.shape[-1:])), (0, 1), value=True)
    return reweight(torch.cat([scores, column], -1), mask=mask)[..., :-1]
