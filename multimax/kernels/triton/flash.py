"""Flash attention for MultiMax in Triton for NVIDIA GPUs: fused, with memory linear in the lengths.

    flash_attention(query, key, value, ranges, ts, powers, mask, causal=, scale=, dropout=, seed=) -> output
    supports(query, key, value, mask, dropout=) -> None, or the reason why it cannot

This is FlashAttention (Dao et al., NeurIPS 2022, arXiv 2205.14135; FlashAttention-2, arXiv 2307.08691) with SegLU
between scores and softmax. The backward keeps query, key, value, output and one number per query, and recomputes scores
and SegLU. There are no atomic sums: the same inputs give the same bits, including the parameters' gradients.
``powers=()`` is plain softmax in the same kernel, which shows the cost of SegLU.

Limits: tensors [batch, heads, length, size] on a CUDA device of compute capability 8.0 or more (or Triton's
interpreter), in bfloat16, float16 or float32 (computed without TF32), head sizes 1 to 256 (values may have another
size than keys); no bias; not differentiable twice.

The kernels, in ``flash_forward`` and ``flash_backward``, and Triton are imported at the first call.
"""

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from multimax.formulas.multimax import by_head, check_parameters, order_of
from multimax.formulas.rows import autocast_dtype, broadcasts
from multimax.formulas.torch_private import constant, tell_flop_counters
from multimax.kernels import is_ordinary, on_device
from multimax.kernels.flops import attention_backward_flops, attention_flops
from multimax.kernels.triton import flash_blocks

NARROW = 16  # the narrowest block of a matrix product
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ranges: Tensor | None,
    ts: Tensor | None,
    powers: tuple[int, ...],
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """Attention with weights softmax(SegLU(query @ key^T * scale)), differentiable with respect to all five tensors.

    The output is [batch, heads, queries, value_size] in the dtype of ``query``; its ``transpose(1, 2)`` is contiguous.

    Args:
        query, key, value: [batch, heads, length, size], cast by autocast as for a matrix product.
        ranges, ts, powers: as for ``row_kernels.MultiMax``; None, None and () for softmax.
        mask, causal, scale, dropout: as for ``multimax.attention``. The mask is read in place and never expanded.
        seed: int64, one element, on the device. What is dropped depends only on it and on the position. If None, it is
            drawn from PyTorch's generator.

    Raises:
        ValueError: ``supports`` names an obstacle, or parameters do not fit.
    """
    reason = supports(query, key, value, mask, dropout=dropout)
    if reason is not None:
        raise ValueError(f"flash attention cannot serve: {reason}")
    if dtype := autocast_dtype(query):
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if ranges is None or ts is None:
        if powers:
            raise ValueError(f"powers {powers} need ranges and ts")
        ranges = ts = torch.empty(1, 0, device=query.device)
    else:
        check_parameters(ranges, ts, order_of(powers), query.device)
        ranges, ts = (p.contiguous() for p in by_head(query, ranges, ts, powers))
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
    if dropout and seed is None:
        seed = torch.randint(2**62, (1,), device=query.device)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    tell_flop_counters(FLOPS)
    return _forward(query, key, value, ranges, ts, mask, seed, list(powers), causal, scale, float(dropout))[0]


def supports(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, dropout: float = 0.0
) -> str | None:
    """Why ``flash_attention`` cannot take these tensors, in one line, or None."""
    if not is_ordinary(query, key, value):
        return "it takes no subclass of Tensor, and nothing that torch.func transforms or torch.export traces"
    if query.dim() != 4 or key.dim() != 4 or value.dim() != 4:
        return f"query, key and value must have 4 dimensions, got {query.dim()}, {key.dim()} and {value.dim()}"
    dtypes = [autocast_dtype(query) or t.dtype for t in (query, key, value)]
    if len({*dtypes}) > 1 or dtypes[0] not in _DTYPES:
        return f"dtypes must be one of bfloat16, float16 and float32, got {dtypes[0]}, {dtypes[1]} and {dtypes[2]}"
    if not query.device == key.device == value.device:
        return f"devices must be one, got {query.device}, {key.device} and {value.device}"
    leading, size, keys = query.shape[:2], query.shape[-1], key.shape[-2]
    if key.shape != (*leading, keys, size) or value.shape[:3] != (*leading, keys):
        return f"shapes do not fit: {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
    for sizes in (size, value.shape[-1]):
        if not 1 <= sizes <= 256:
            return f"sizes must be 1 to 256, got {size} and {value.shape[-1]}"
    if not 0 <= dropout < 1:
        return f"dropout must be at least 0 and below 1, got {dropout}"
    if mask is not None:
        if mask.dtype != torch.bool:
            return f"mask must be bool, got {mask.dtype}"
        full = (*leading, query.shape[-2], keys)
        if not broadcasts(mask.shape, full):
            return f"mask of shape {tuple(mask.shape)} does not broadcast to {full}"
    return _supports_device(query.device.type, query.device.index)


@constant
def _supports_device(kind: str, index: int | None) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if kind != "cuda" or torch.version.hip is not None:
        return f"it needs an NVIDIA GPU, the tensors are on {kind}"
    capability = torch.cuda.get_device_capability(index)
    return None if capability >= (8, 0) else f"it needs compute capability 8.0, the device has {capability}"


def _like(tensor: Tensor, size: int | None = None) -> Tensor:
    """Empty, in the shape of ``tensor`` with rows of ``size``, laid out [batch, length, heads, size].

    It is no view of another tensor, since torch would refuse to change a view in place that a custom operator made.
    """
    batch, heads, length, own = tensor.shape
    size = own if size is None else size
    return tensor.new_empty_strided((batch, heads, length, size), (length * heads * size, size, heads * size, 1))


@torch.library.custom_op("multimax::flash_attention", mutates_args=())
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ranges: Tensor,
    ts: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
    powers: list[int],
    causal: bool,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    from multimax.kernels.triton.flash_forward import forward

    query, key, value = _rows_are_dense(query, key, value)
    output, lse = _fake_forward(query, key, value)
    if output.numel() == 0 or key.shape[2] == 0:
        return output.zero_(), lse
    batch, heads, queries, _ = query.shape
    common = _common(query, key, value, ts, mask, powers, causal, scale, dropout)
    blocks = flash_blocks.choose("forward", query, value)
    grid = (-(-queries // blocks["BLOCK_M"]) * batch * heads,)
    narrow = _narrow(queries, blocks["BLOCK_M"], key.shape[2], blocks["BLOCK_N"], causal)
    with on_device(query):
        forward[grid](
            query, key, value, output, lse, _or(mask, query), ranges, ts, _or(seed, query),
            query.stride(), key.stride(), value.stride(), output.stride(), **narrow, **common, **blocks,
        )  # fmt: skip
    return output, lse


@_forward.register_fake
def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _like(query, value.shape[-1]), query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.custom_op("multimax::flash_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ranges: Tensor,
    ts: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
    output: Tensor,
    lse: Tensor,
    powers: list[int],
    causal: bool,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from multimax.kernels.triton.flash_backward import backward_of_keys, backward_of_queries

    grad, query, key, value = _rows_are_dense(grad, query, key, value)
    dq, dk, dv, dranges, dts = _fake_backward(grad, query, key, value, ranges, ts)
    if output.numel() == 0 or key.shape[2] == 0:
        return dq.zero_(), dk.zero_(), dv.zero_(), dranges.zero_(), dts.zero_()
    batch, heads, queries, _ = query.shape
    common = _common(query, key, value, ts, mask, powers, causal, scale, dropout)
    delta = torch.empty_like(lse)
    inputs = (grad, query, key, value)
    others = (_or(mask, query), ranges, ts, _or(seed, query))
    with on_device(query):
        blocks = flash_blocks.choose("backward_of_queries", query, value)
        programs = -(-queries // blocks["BLOCK_M"])
        narrow = _narrow(queries, blocks["BLOCK_M"], key.shape[2], blocks["BLOCK_N"], causal)
        sums = torch.empty(batch, heads, programs, len(powers), 2, device=query.device)
        backward_of_queries[(batch * heads * programs,)](
            *inputs, output, lse, delta, dq, sums, *others, *(t.stride() for t in (*inputs, output, dq)),
            WARPS=blocks.get("num_warps", 4), **narrow, **common, **blocks,
        )  # fmt: skip
        blocks = flash_blocks.choose("backward_of_keys", query, value)
        programs = -(-key.shape[2] // blocks["BLOCK_N"])
        narrow = _narrow(key.shape[2], blocks["BLOCK_N"], queries, blocks["BLOCK_M"], False)
        backward_of_keys[(batch * heads * programs,)](
            *inputs, lse, delta, dk, dv, *others, *(t.stride() for t in (*inputs, dk, dv)),
            **narrow, **common, **blocks,
        )  # fmt: skip
    if powers:
        by_hinge = sums.sum((0, 2) if ts.shape[0] > 1 else (0, 1, 2), dtype=torch.float64).float().reshape(*ts.shape, 2)
        dranges, dts = (of.contiguous() for of in by_hinge.unbind(-1))
    return dq, dk, dv, dranges, dts


@_backward.register_fake
def _fake_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, ranges: Tensor, ts: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _like(query), _like(key), _like(value), torch.empty_like(ranges), torch.empty_like(ts)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.powers, ctx.causal, ctx.scale, ctx.dropout = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    tell_flop_counters(FLOPS)
    gradients = _backward(grad, *ctx.saved_tensors, ctx.powers, ctx.causal, ctx.scale, ctx.dropout)
    return *gradients, None, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)

FLOPS: dict[Any, Any] = {
    torch.ops.multimax.flash_attention: attention_flops,
    torch.ops.multimax.flash_attention_backward: lambda grad, *inputs, out_val=None: attention_backward_flops(*inputs),
}


def _rows_are_dense(*tensors: Tensor) -> list[Tensor]:
    """The tensors with dense rows, close enough for int32 offsets within a block, which has at most 128 rows."""
    return [t if t.stride(-1) == 1 and t.stride(-2) < 2**24 else t.contiguous() for t in tensors]


def _or(tensor: Tensor | None, placeholder: Tensor) -> Tensor:
    """The tensor, bools as bytes, or a placeholder that the kernel does not use."""
    if tensor is None:
        return placeholder
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


def _narrow(length: int, block: int, walked: int, block_walked: int, diagonal: bool) -> dict[str, int]:
    """Block sizes for the remainders of ``length`` and of the length ``walked`` over: 196 leaves 4, which fit in 16.

    On a causal diagonal, the blocks that are walked over are whole, and checked.
    """
    last = NARROW if 0 < length % block <= NARROW else block
    edge = NARROW if 0 < walked % block_walked <= NARROW and not diagonal else block_walked
    return {"LAST_BLOCK": min(last, block), "EDGE_BLOCK": min(edge, block_walked)}


def _common(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ts: Tensor,
    mask: Tensor | None,
    powers: list[int],
    causal: bool,
    scale: float,
    dropout: float,
) -> dict[str, Any]:
    """The keyword arguments of all kernels."""
    batch, heads, queries, size = query.shape
    keys = key.shape[2]
    strides = (0, 0, 0, 0) if mask is None else mask.expand(batch, heads, queries, keys).stride()
    # Products of float16 values stay far below the limit.
    bounded = query.dtype == torch.float16 and abs(scale) < 1000
    return {
        "mask_strides": strides,
        "heads": heads,
        "queries": queries,
        "keys": keys,
        "scale": scale,
        "dropout": dropout,
        "PER_HEAD": ts.shape[0] > 1,
        "FIRST": 1 in powers,
        "SECOND": 2 in powers,
        "CLAMP": bool(powers) and not bounded,
        "CAUSAL": causal,
        "HAS_MASK": mask is not None,
        "MASK_OF_KEYS": strides[2] == 0,
        "DROPOUT": dropout > 0,
        "HEAD": size,
        "VALUE": value.shape[-1],
        "HEAD_BLOCK": _block(size),
        "VALUE_BLOCK": _block(value.shape[-1]),
    }


def _block(size: int) -> int:
    """The smallest block of a matrix product that holds ``size``."""
    return max(NARROW, 1 << (size - 1).bit_length())
