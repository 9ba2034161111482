"""Self-adjust softmax: softmax times the score's position between the smallest and largest score, 0 included.

    p_i = (x_i - min(min x, 0)) / (max(max x, 0) - min(min x, 0)) * softmax(x)_i

Zheng et al., "Self-Adjust Softmax", EMNLP 2025, arXiv 2502.18277.
"""

import torch
from torch import Tensor

from multimax.formulas.rows import along, compute_dtype, over_live_entries
from multimax.reweight._registry import register
from multimax.reweight._softmax import softmax


@register("sa_softmax", sums_to_one=False)
def sa_softmax(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """Self-adjusted softmax; arguments, result and errors as for ``softmax``."""

    def of_rows(scores: Tensor, mask: Tensor | None) -> Tensor:
        # Dead entries are set to 0, which moves neither end.
        place = over_live_entries(_place, scores.to(compute_dtype(scores)), mask, dead=0.0)
        return (place * softmax(scores.to(place.dtype), mask=mask)).to(scores.dtype)

    return along(dim, of_rows, scores, mask)


def _place(x: Tensor) -> Tensor:
    """Where ``x`` lies between the ends of its row, from 0 to 1."""
    x = x / 2  # else the difference of two finite numbers may overflow
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    span = high - low
    return (x - low) / span.where(span >= torch.finfo(x.dtype).tiny, 1)  # a row of zeros has a slope of 1, not of 1e38
