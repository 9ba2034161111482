"""From the caller's arguments to plain rows and back: dtype, mask and empty rows are settled here, once for all."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def compute_dtype(scores: Tensor) -> torch.dtype:
    """float32 for half precision, the scores' own dtype otherwise."""
    return torch.promote_types(scores.dtype, torch.float32)


def check_arguments(scores: Tensor, mask: Tensor | None) -> None:
    """Raise TypeError or ValueError, in one line, for scores or a mask that no function here can take."""
    if not scores.is_floating_point():
        raise TypeError(f"scores must be floating point, got {scores.dtype}; convert them with .float()")
    if scores.dim() == 0:
        raise ValueError("scores must have a last dimension to normalise, got a 0-d tensor; use scores.unsqueeze(0)")
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool (True = live), got {mask.dtype}; for an additive one pass mask == 0")
    fits = mask.dim() <= scores.dim() and all(
        m == 1 or m == s for m, s in zip(reversed(mask.shape), reversed(scores.shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} does not broadcast to scores of shape {tuple(scores.shape)}; "
            "each of its dimensions, counted from the last, must be 1 or the scores'"
        )


def over_live_entries(weigh: Callable[[Tensor], Tensor], scores: Tensor, mask: Tensor | None) -> Tensor:
    """Apply ``weigh``, a function of whole rows, to the live entries of ``scores``.

    ``weigh`` sees rows in float32 or float64 with at least one finite entry; dead entries are -inf there, and it must
    give them zero. It is the part that a faster implementation can replace.
    """
    check_arguments(scores, mask)
    if scores.shape[-1] == 0:
        return scores.clone()
    x = scores.to(compute_dtype(scores))
    if mask is None:
        return weigh(x).to(scores.dtype)
    row_is_live = mask.any(-1, keepdim=True)
    # An empty row is weighed as if it were all zeros and blanked afterwards, so that no NaN arises even on the way.
    dead = torch.zeros_like(row_is_live, dtype=x.dtype).masked_fill(row_is_live, -math.inf)
    weights = weigh(torch.where(mask, x, dead))
    return weights.masked_fill(~row_is_live, 0).to(scores.dtype)


def per_head(parameter: Tensor, scores: Tensor) -> Tensor:
    """One value, or one per head [heads], in a shape that broadcasts over ``scores`` [..., heads, queries, keys]."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    if parameter.dim() != 1 or scores.dim() < 3 or scores.shape[-3] != parameter.shape[0]:
        raise ValueError(
            f"{parameter.numel()} heads in a parameter do not fit scores of shape {tuple(scores.shape)}; "
            "scores must be [..., heads, queries, keys] with as many heads"
        )
    return parameter[:, None, None]
