"""Flash attention for entmax by the package adasplash, if it is installed.

    flash_entmax(query, key, value, alpha, causal=, scale=) -> output
    supports(query, key, value, alpha, mask, dropout=) -> None, or the reason why it cannot

Gonçalves, Treviso, Martins, "AdaSplash: Adaptive Sparse Flash Attention", ICML 2025. This is the first of the package's
two kernels: it takes any alpha, causal or not, and agrees with ``multimax.reweight.entmax`` up to rounding. (The second
is only for causal attention at alpha = 1.5, and tunes itself on its first call.) Each call waits for the device once,
to count the blocks that are not zero, and breaks the graph of ``torch.compile``.
"""

import importlib.util

import torch
from torch import Tensor

from multimax.kernels import is_ordinary

_SIZES = (16, 32, 64, 128, 256)
_MIN_LENGTH = 128  # its kernels load whole blocks of up to 128 rows, unchecked


def flash_entmax(
    query: Tensor, key: Tensor, value: Tensor, alpha: float, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Attention with entmax of the scores as weights; query, key, value and output are [batch, heads, length, size].

    Raises:
        ValueError: what ``supports`` says.
    """
    reason = supports(query, key, value, alpha)
    if reason is not None:
        raise ValueError(f"adasplash cannot serve: {reason}")
    from adasplash import adasplash_v1

    if scale is not None:
        query = query * (scale * query.shape[-1] ** 0.5)  # the package always scales by size ** -0.5
    return adasplash_v1(query.contiguous(), key.contiguous(), value.contiguous(), alpha=alpha, is_causal=causal)


def supports(
    query: Tensor, key: Tensor, value: Tensor, alpha: float | Tensor, mask: Tensor | None = None, *, dropout: float = 0
) -> str | None:
    """Why this cannot be served, in one line, or None."""
    if not is_ordinary(query, key, value):
        return "it takes no subclass of Tensor, and nothing that torch.func transforms or torch.export traces"
    if importlib.util.find_spec("adasplash") is None:
        return "adasplash is not installed"
    if isinstance(alpha, Tensor):
        return "adasplash has no gradient of alpha"
    if not 1 < alpha <= 2:
        return f"alpha must be above 1 and at most 2, got {alpha}"
    if dropout:
        return "adasplash has no dropout"
    if mask is not None:
        return "adasplash takes no mask"
    if query.dim() != 4 or not query.shape == key.shape == value.shape:
        return (
            "query, key and value must be [batch, heads, length, size], all alike, got "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
    length, size = query.shape[-2:]
    if length < _MIN_LENGTH or length.bit_count() != 1:
        return f"the length must be a power of two from {_MIN_LENGTH} on, got {length}"
    if size not in _SIZES:
        return f"the size of the heads must be one of {_SIZES}, got {size}"
    if not query.dtype == key.dtype == value.dtype or query.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"dtypes must be one of bfloat16, float16 and float32, got {query.dtype}, {key.dtype} and {value.dtype}"
    if query.device.type != "cuda":
        return f"it needs a GPU, the tensors are on {query.device.type}"
    return None
