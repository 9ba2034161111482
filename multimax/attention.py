"""Scaled dot-product attention with any reweighting.

    scores  = query @ key^T * scale (+ bias)
    weights = reweight(scores, mask)
    output  = dropout(weights) @ value

The mask never enters the scores: it is handed to the reweighting, which alone knows what a missing entry means for it
(an ev-softmax whose mean runs over -inf, say, is softmax under another name).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax.reweight import Reweighting, Softmax


def attention_scores(query: Tensor, key: Tensor, *, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Scores [..., heads, queries, keys] of query [..., heads, queries, dim] and key [..., heads, keys, dim].

    ``bias`` is a finite term that belongs to the scores, such as that of relative positions; ``scale`` defaults to
    ``dim ** -0.5`` and does not touch the bias.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    return scores if bias is None else scores + bias


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    reweight: Reweighting,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention output [..., heads, queries, value_dim] in the dtype of ``value``.

    Shapes: query [..., heads, queries, dim], key [..., heads, keys, dim], value [..., heads, keys, value_dim];
    mask is bool, True where a key may be attended to, broadcastable to [..., heads, queries, keys]. A query whose
    mask has no live key gets zeros. ``dropout`` is the probability of dropping a weight; pass 0 outside training.

    Softmax takes PyTorch's fused path, which agrees with the materialised one up to rounding, unless a forward hook on
    ``reweight`` waits for the weights.
    """
    if isinstance(reweight, Softmax) and bias is None and not reweight._forward_hooks:
        mask = None if mask is None else torch.atleast_2d(mask)  # a mask over keys alone is one for every query
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
        # The fused kernels disagree on a row without a live key: some give NaN, some a mean over dead values.
        return output if mask is None else torch.where(mask.any(-1, keepdim=True), output, 0.0)
    weights = reweight(attention_scores(query, key, bias=bias, scale=scale), mask)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ value
