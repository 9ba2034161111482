"""torch's attention calls, answered with a reweighting instead of softmax.

    scaled_dot_product_attention(query, key, value, attn_mask)  ->  attention(query, key, value, reweight, live, bias)

torch adds masks to scores. Here an additive mask is split: entries at or below ``floor`` are dead, and the others are a
bias on the scores, such as one for relative positions.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax.attention import attention, attention_scores
from multimax.formulas.rows import autocast_dtype
from multimax.formulas.torch_private import is_readable
from multimax.reweight import Reweighting

# No model's bias is this low; masks are written with -1e4, -1e9 or the lowest number of a dtype.
MASK_FLOOR = -9999.0


def live_and_bias(mask: Tensor | None, floor: float = MASK_FLOOR) -> tuple[Tensor | None, Tensor | None]:
    """Split a torch mask (bool, True = live; or added to the scores) into a bool mask and a finite bias.

    If the values can be read without waiting for a GPU, a mask without dead entries and a bias of zeros become None,
    since kernels are faster without them.
    """
    if mask is None or mask.dtype == torch.bool:
        return mask, None
    live = mask > floor
    bias = mask.where(live, 0)
    if mask.device.type != "cpu" or not is_readable(mask):
        return live, bias
    return None if live.all() else live, bias if bias.requires_grad or bias.any() else None


def dot_product_attention(
    reweight: Reweighting,
    floor: float,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``F.scaled_dot_product_attention`` with the weights of ``reweight``; zeros for a query without a live key.

    Grouped heads work with any ``enable_gqa``.
    """
    live, bias = live_and_bias(attn_mask, floor)
    output = attention(query, key, value, reweight, live, causal=is_causal, bias=bias, scale=scale, dropout=dropout_p)
    return output.to(autocast_dtype(output) or output.dtype)


def softmax_of_scores(
    reweight: Reweighting,
    floor: float,
    scores: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``F.softmax`` of scores in which dead entries hold a number at or below ``floor``."""
    if dim not in (-1, scores.dim() - 1):
        raise NotImplementedError(f"softmax along dimension {dim} of {scores.dim()} cannot be replaced, only the last")
    live = scores > floor
    return reweight(scores.where(live, 0).to(dtype or scores.dtype), mask=live)


def multi_head_attention(
    reweight: Reweighting,
    floor: float,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``F.multi_head_attention_forward`` with the weights of ``reweight``: its arguments, shapes and results.

    query [queries, batch, dim], or [queries, dim]; unlike everywhere else, bool masks are True where an entry is dead.
    """
    is_batched = query.dim() == 3
    if not is_batched:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    batch = query.shape[1]
    if query.shape[-1] != embed_dim_to_check:
        raise ValueError(f"query must have {embed_dim_to_check} features, got {query.shape[-1]}")

    def heads(features: Tensor) -> Tensor:
        """[batch, heads, length, dim of a head]"""
        return features.reshape(*features.shape[:-1], num_heads, -1).permute(1, 2, 0, 3)

    factors: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    if in_proj_weight is not None and not use_separate_proj_weight:
        factors = in_proj_weight.chunk(3)
    terms = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    if query is key and key is value and in_proj_weight is not None:
        projected = F.linear(query, in_proj_weight, in_proj_bias).chunk(3, -1)
    else:
        inputs = (query, key, value)
        projected = tuple(F.linear(x, w, b) for x, w, b in zip(inputs, factors, terms, strict=True))
    q, k, v = projected
    if bias_k is not None and bias_v is not None:
        k, v = (torch.cat([t, bias.expand(1, batch, -1)]) for t, bias in ((k, bias_k), (v, bias_v)))
    q, k, v = heads(q), heads(k), heads(v)
    if static_k is not None:
        k = static_k.reshape(batch, num_heads, *static_k.shape[1:])
    if static_v is not None:
        v = static_v.reshape(batch, num_heads, *static_v.shape[1:])
    if add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))

    if is_causal and attn_mask is None:
        raise ValueError("is_causal says what attn_mask is: pass the causal mask as well")
    causal = is_causal and key_padding_mask is None and not need_weights
    live, bias = None, None
    if key_padding_mask is not None:
        live, bias = _appended(key_padding_mask[:, None, None], k.shape[-2], floor)
    if attn_mask is not None and not causal:
        if attn_mask.dim() == 3:
            attn_mask = attn_mask.reshape(batch, num_heads, *attn_mask.shape[1:])
        also_live, more = _appended(attn_mask, k.shape[-2], floor)
        live = also_live if live is None else live if also_live is None else live & also_live
        bias = more if bias is None else bias if more is None else bias + more

    dropout = dropout_p if training else 0.0
    weights = None
    if need_weights:
        weights = F.dropout(reweight(attention_scores(q, k, bias=bias), mask=live), dropout)
        output = weights.to(v.dtype) @ v
        weights = weights.mean(1) if average_attn_weights else weights
        weights = weights if is_batched else weights.squeeze(0)
    else:
        output = attention(q, k, v, reweight, live, causal=causal, bias=bias, dropout=dropout)
    output = F.linear(output.permute(2, 0, 1, 3).flatten(-2), out_proj_weight, out_proj_bias)
    return output if is_batched else output.squeeze(1), weights


def _appended(mask: Tensor, keys: int, floor: float) -> tuple[Tensor | None, Tensor | None]:
    """``live_and_bias`` of a mask whose bools are True where dead, with keys beyond the mask's own live."""
    if mask.dtype == torch.bool:
        mask = ~mask
    appended = keys - mask.shape[-1]
    return live_and_bias(F.pad(mask, (0, appended), value=mask.dtype == torch.bool) if appended else mask, floor)
