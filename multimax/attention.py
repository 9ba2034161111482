"""Scaled dot-product attention with any reweighting.

    scores  = query @ key^T * scale (+ bias)
    weights = reweight(scores, mask)
    output  = dropout(weights) @ value

The mask never enters the scores: it is handed to the reweighting, which alone knows what a missing entry means for it
(an ev-softmax whose mean runs over -inf, say, is softmax under another name).

There are several ways to compute it. "reference" is the three lines above and serves always; the others agree with it
up to rounding, and serve where their limits allow:

    sdpa        softmax, PyTorch's fused kernels
    blocked     on the CPU, in C++: in blocks that stay in the cache; memory linear in the lengths
    flash       MultiMax on an NVIDIA GPU, in Triton; memory linear in the lengths
    adasplash   entmax with a fixed alpha on a GPU, through the package of that name
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax import kernels
from multimax.formulas.multimax import by_head
from multimax.kernels import adasplash
from multimax.kernels.attention import Rows, blocked_attention
from multimax.kernels.row_kernels import Entmax, EvSoftmax, MultiMax, RowKernel, Softmax
from multimax.kernels.triton import flash
from multimax.reweight import Reweighting
from multimax.reweight._base import may_bypass

BACKENDS = ("reference", "sdpa", "blocked", "flash", "adasplash")

# On the CPU: scores of one head from which on blocks are as fast as the reference or faster. In ones of 32 by 32 scores
# they take twice its time, of 96 by 96 as much, of 128 by 128 and more 0.9 to 1 of it.
BLOCKED_FROM = 2**14
# Half precision they compute in float32, at up to 1.6 of the reference's time where the processor has products for it.
# There they are for the memory: scores of one call that take 128 MB in each layer, and as much again for the weights.
HALF_BLOCKED_FROM = 2**26
# Keys from which on a GPU takes a flash kernel. On an H100, at 196 keys, forward and backward took 0.64 ms where six
# products with whole scores take 0.75 and the row kernels 0.3 more. Fewer keys, and float32, which the flash kernels
# multiply without tensor cores, were not measured.
FLASH_FROM, SINGLE_FLASH_FROM = 64, 512


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
    causal: bool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Attention output [..., heads, queries, value_dim] in the dtype of ``value``.

    Shapes: query [..., heads, queries, dim], key [..., heads, keys, dim], value [..., heads, keys, value_dim];
    mask is bool, True where a key may be attended to, broadcastable to [..., heads, queries, keys]. A query whose
    mask has no live key gets zeros. With ``causal`` query i attends at most to keys 0 to i; fused
    kernels are faster at it than with the same as a mask. ``dropout`` is the probability of dropping a weight; pass 0
    outside training.

    ``backend`` is one of ``BACKENDS``, or None for the one that ``attention_path`` names.

    Raises:
        ValueError: an unknown backend, or one that cannot serve; the message says why.
    """
    if backend is None:
        backend = attention_path(query, key, value, reweight, mask, bias=bias, dropout=dropout)
    elif reason := _obstacle(backend, query, key, value, reweight, mask, bias, dropout):
        raise ValueError(f"backend {backend!r} cannot serve: {reason}")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if backend == "flash":
        segments = _segments(reweight)
        return flash.flash_attention(query, key, value, *segments, mask, causal=causal, scale=scale, dropout=dropout)
    if backend == "adasplash":
        alpha = _alpha(reweight)
        return adasplash.flash_entmax(*_autocast(query, key, value), alpha, causal=causal, scale=scale)
    if backend == "sdpa" and mask is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=causal, scale=scale)
    if causal:
        up_to_own = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        mask = up_to_own if mask is None else mask & up_to_own
    if backend == "sdpa":
        assert mask is not None
        mask = torch.atleast_2d(mask)  # a mask over keys alone is one for every query
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
        # The fused kernels disagree on a row without a live key: some give NaN, some a mean over dead values.
        return torch.where(mask.any(-1, keepdim=True), output, 0.0)
    if backend == "blocked":
        rows = _rows(reweight.row_kernel(), query)
        assert rows is not None
        return blocked_attention(query, key, value, mask, rows, scale)
    weights = reweight(attention_scores(query, key, bias=bias, scale=scale), mask)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ value


def attention_path(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    reweight: Reweighting,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> str:
    """The backend that ``attention`` takes for these arguments if it is not told one.

    Softmax takes "sdpa" wherever it can. Others take one of the kernels where it pays, unless ``multimax.kernels`` is
    set to "eager".
    """

    def serves(backend: str) -> bool:
        return _obstacle(backend, query, key, value, reweight, mask, bias, dropout) is None

    if serves("sdpa"):
        return "sdpa"
    keys = key.shape[-2]
    in_half = query.dtype.itemsize < 4 or torch.is_autocast_enabled("cpu")
    if in_half:
        has_enough = query.shape[:-1].numel() * keys >= HALF_BLOCKED_FROM
    else:
        has_enough = query.shape[-2] * keys >= BLOCKED_FROM
    if has_enough and serves("blocked"):
        return "blocked"
    in_half = query.dtype.itemsize < 4 or torch.is_autocast_enabled("cuda")
    if query.is_cuda and keys >= (FLASH_FROM if in_half else SINGLE_FLASH_FROM) and kernels.mode() != "eager":
        return next(filter(serves, ("flash", "adasplash")), "reference")
    return "reference"


def _obstacle(
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    reweight: Reweighting,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout: float,
) -> str | None:
    """Why a backend cannot serve, in one line, or None."""
    if backend not in BACKENDS:
        return f"there is no such; it must be one of {', '.join(BACKENDS)}"
    if backend == "reference":
        return None
    if bias is not None:
        return "it takes no bias"
    if not may_bypass(reweight, "row_kernel"):
        return "the module must be called, for a hook or a forward of its own"
    name, row_kernel = type(reweight).__name__, reweight.row_kernel()
    if backend == "sdpa":
        return None if isinstance(row_kernel, Softmax) else f"it is for softmax, not {name}"
    if backend == "flash":
        if not isinstance(row_kernel, MultiMax | Softmax):
            return f"it is for MultiMax and softmax, not {name}"
        return flash.supports(*_autocast(query, key, value), mask, dropout=dropout)
    if backend == "adasplash":
        if not isinstance(row_kernel, Entmax):
            return f"it is for entmax, not {name}"
        return adasplash.supports(*_autocast(query, key, value), row_kernel.alpha, mask, dropout=dropout)
    if dropout:
        return "it has no dropout"
    if kernels.path(query) != "cpp":
        return "it needs the C++ kernels of the CPU"
    if not query.dim() == key.dim() == value.dim() == 4:
        return f"it takes 4 dimensions, got {query.dim()}, {key.dim()} and {value.dim()}"
    if not query.shape[:2] == key.shape[:2] == value.shape[:2]:
        return "query, key and value must be of the same batches and heads"
    if not query.dtype == key.dtype == value.dtype and not torch.is_autocast_enabled("cpu"):
        return f"dtypes must be the same, got {query.dtype}, {key.dtype} and {value.dtype}"
    return None if _rows(row_kernel, query) is not None else f"it has no kernel for {name} on these heads"


def _rows(row_kernel: RowKernel | None, query: Tensor) -> Rows | None:
    """How the row kernels are told of a function, or None if they have none for it."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    heads = (1, query.shape[-3])
    match row_kernel:
        case Softmax():
            nothing = query.new_zeros(1, 2, dtype=dtype)  # softmax is MultiMax whose ts are zero
            return Rows("multimax", nothing, nothing, (1, 1))
        case MultiMax(ranges, ts, powers) if ts.dim() == 1 or len(ts) in heads:
            return Rows("multimax", *by_head(query, ranges, ts, powers), powers)
        case Entmax(alpha) if not isinstance(alpha, Tensor):
            return Rows("entmax", number=alpha)
        case Entmax(Tensor() as alpha) if alpha.numel() in heads:
            return Rows("alpha_entmax", alpha.reshape(-1).to(dtype))
        case EvSoftmax(epsilon):
            return Rows("evsoftmax", number=epsilon)
    return None


def _segments(reweight: Reweighting) -> tuple[Tensor | None, Tensor | None, tuple[int, ...]]:
    """Ranges and ts, [k] or [heads, k], and the powers of the hinges; softmax has none."""
    match reweight.row_kernel():
        case MultiMax(ranges, ts, powers):
            return ranges, ts, powers
    return None, None, ()


def _alpha(reweight: Reweighting) -> float:
    row_kernel = reweight.row_kernel()
    assert isinstance(row_kernel, Entmax)
    assert not isinstance(row_kernel.alpha, Tensor)
    return row_kernel.alpha


def _autocast(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In autocast's dtype, where it is on: as the factors of a matrix product would be."""
    device = query.device.type
    if not torch.is_autocast_enabled(device):
        return query, key, value
    dtype = torch.get_autocast_dtype(device)
    return query.to(dtype), key.to(dtype), value.to(dtype)
