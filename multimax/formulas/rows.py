"""From the caller's arguments to plain rows and back: types, dtypes, masks and empty rows are handled here."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from multimax.formulas.torch_private import is_autocast_available

INT64_MAX = torch.iinfo(torch.int64).max
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def compute_dtype(scores: Tensor) -> torch.dtype:
    """float32 for half precision, the scores' own dtype otherwise."""
    return torch.promote_types(scores.dtype, torch.float32)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype in which autocast computes matrix products of ``tensor``; None if it is off, and for float64."""
    device = tensor.device.type
    is_left_alone = tensor.dtype == torch.float64
    if is_left_alone or not is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def autocast_unites(one: Tensor, other: Tensor) -> bool:
    """Whether autocast brings both into one dtype for a matrix product."""
    return autocast_dtype(one) is not None and autocast_dtype(other) is not None


def check_arguments(scores: Tensor, mask: Tensor | None, dim: int | None = None, name: str = "scores") -> None:
    """Raise TypeError or ValueError, in one line, for arguments that none of these functions can take.

    ``name`` is the caller's name for the scores.
    """
    check_floating(name, scores)
    if scores.dim() == 0:
        raise ValueError(f"{name} must have a dimension to normalise, got a 0-d tensor; use {name}.unsqueeze(0)")
    if isinstance(dim, bool) or not isinstance(dim, int | None):
        hint = "; a mask is passed as mask=" if isinstance(dim, Tensor) else ""
        raise TypeError(f"dim must be an int, got {type(dim).__name__}{hint}")
    if dim is not None and not -scores.dim() <= dim < scores.dim():
        raise ValueError(f"dim must be from {-scores.dim()} to {scores.dim() - 1} for these scores, got {dim}")
    if mask is not None:
        check_mask(mask, scores.shape, scores.device)


def check_floating(name: str, tensor: Tensor, device: torch.device | None = None) -> None:
    """Raise unless ``tensor`` is a dense floating-point tensor, on ``device`` if one is given."""
    check_dense(name, tensor)
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} must be floating point, of 16 to 64 bits, got {tensor.dtype}; convert with .float()")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name} must be on {device}, where the scores are, got {tensor.device}")


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether a tensor of ``shape`` expands to ``to``."""
    return len(shape) <= len(to) and all(a == 1 or a == b for a, b in zip(reversed(shape), reversed(to), strict=False))


def broadcast_together(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether tensors of these shapes broadcast."""
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(other), strict=False))


def check_mask(mask: Tensor, shape: torch.Size, device: torch.device) -> None:
    """Raise unless ``mask`` is a bool tensor on ``device`` that broadcasts to scores of ``shape``."""
    check_dense("mask", mask)
    if mask.dtype != torch.bool:
        additive = mask.is_floating_point()
        instead = "an additive one pass mask == 0" if additive else "one of ones (live) and zeros pass mask == 1"
        raise TypeError(f"mask must be bool (True = live), got {mask.dtype}; for {instead}")
    if mask.device != device:
        raise ValueError(f"mask must be on {device}, where the scores are, got {mask.device}")
    if not broadcasts(mask.shape, shape):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} does not broadcast to scores of shape {tuple(shape)}; "
            "each of its dimensions, counted from the last, must be 1 or the scores'"
        )


def check_number(name: str, number: float, *, above: float | None = None, least: float | None = None) -> None:
    """Raise unless ``number`` is finite in float32 and, where given, greater than ``above`` and at least ``least``."""
    if isinstance(number, bool) or not isinstance(number, int | float | torch.SymInt | torch.SymFloat):
        raise TypeError(f"{name} must be a number, got {type(number).__name__}")
    if isinstance(number, torch.SymInt | torch.SymFloat):
        return
    high = (above is None or number > above) and (least is None or number >= least)
    if not (high and abs(number) <= torch.finfo(torch.float32).max):
        bound = "" if above is None else f"above {above} and "
        bound = bound if least is None else f"at least {least} and "
        raise ValueError(f"{name} must be {bound}finite, got {number}")


def check_count(name: str, number: int, least: int = 1) -> None:
    """Raise unless ``number`` is an int, not a bool, and at least ``least``."""
    if isinstance(number, bool) or not isinstance(number, int | torch.SymInt):
        raise TypeError(f"{name} must be an int, got {type(number).__name__}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if isinstance(number, int) and number > INT64_MAX:
        raise ValueError(f"{name} must be at most {INT64_MAX}, got {number}")


def check_bool(name: str, value: bool) -> None:
    """Raise unless ``value`` is a bool, not a number or a tensor."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")


def check_dense(name: str, tensor: Tensor) -> None:
    """Raise unless ``tensor`` is a tensor and neither sparse nor nested."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind, hint = f"a {tensor.layout}", "convert it with .to_dense"
        if tensor.is_nested:
            kind, hint = "a nested", "pad it with .to_padded_tensor and pass a bool mask of what is live"
        raise TypeError(f"{name} must be a dense tensor, got {kind} one; {hint}")


def along(
    dim: int | None, weigh: Callable[[Tensor, Tensor | None], Tensor], scores: Tensor, mask: Tensor | None
) -> Tensor:
    """``weigh(scores, mask)``, which works on the last dimension, along ``dim``, after checking the arguments."""
    check_arguments(scores, mask, dim)
    if dim in (None, -1, scores.dim() - 1):
        return weigh(scores, mask)
    if mask is not None:
        mask = mask.expand(scores.shape).movedim(dim, -1)
    return weigh(scores.movedim(dim, -1), mask).movedim(-1, dim)


def over_live_entries(
    weigh: Callable[[Tensor], Tensor], scores: Tensor, mask: Tensor | None, *, dead: float = -math.inf
) -> Tensor:
    """Apply ``weigh``, a function of whole rows, to the live entries of ``scores``.

    ``weigh`` gets rows in float32 or float64 whose dead entries hold ``dead``, and must give these weight zero.
    """
    if scores.shape[-1] == 0:
        return scores.clone()
    x = scores.to(compute_dtype(scores))
    if mask is None:
        return weigh(x).to(scores.dtype)
    row_is_live = mask.any(-1, keepdim=True)
    # A row without a live entry is weighed as zeros and blanked afterwards, so that no NaN appears on the way.
    filling = torch.zeros_like(row_is_live, dtype=x.dtype).masked_fill(row_is_live, dead)
    weights = weigh(torch.where(mask, x, filling))
    return weights.masked_fill(~row_is_live, 0).to(scores.dtype)


def count_live(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The number of live entries in each row, at least 1, in the compute dtype; broadcasts over ``scores``."""
    if mask is None:
        return torch.full((), scores.shape[-1], dtype=compute_dtype(scores), device=scores.device).clamp(min=1)
    mask = torch.atleast_1d(mask)
    mask = mask.expand(*mask.shape[:-1], scores.shape[-1])
    return mask.sum(-1, keepdim=True).clamp(min=1).to(compute_dtype(scores))


def per_head(name: str, parameter: Tensor, scores: Tensor) -> Tensor:
    """A parameter with one value or [heads], in a shape that broadcasts over ``scores`` [..., heads, queries, keys]."""
    if parameter.device != scores.device:
        raise ValueError(f"{name} must be on {scores.device}, where the scores are, got {parameter.device}")
    if parameter.numel() == 1:
        return parameter.reshape(())
    if scores.dim() < 3 or scores.shape[-3] != parameter.shape[0]:
        raise ValueError(
            f"{name} for {parameter.numel()} heads does not fit scores of shape {tuple(scores.shape)}; "
            "they must be [..., heads, queries, keys] with as many heads"
        )
    return parameter[:, None, None]
