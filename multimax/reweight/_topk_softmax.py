"""Top-k softmax: softmax over the entries not below the k-th largest; entries tied with it are all kept.

Gupta et al., "Memory-efficient Transformers via Top-k Attention", SustaiNLP 2021, arXiv 2106.06899.
"""

import math

import torch
from torch import Tensor

from multimax.formulas.rows import along, check_count, over_live_entries
from multimax.reweight._registry import register


@register("topk_softmax")
def topk_softmax(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None, k: int = 8) -> Tensor:
    """Softmax over the ``k`` largest live entries; the other arguments, result and errors as for ``softmax``.

    Raises:
        TypeError: ``k`` is not an int.
        ValueError: ``k`` < 1.
    """
    check_count("k", k)

    def weigh(x: Tensor) -> Tensor:
        # With k more entries there are always k to choose from, however short the row.
        padded = torch.cat([x.detach(), x.new_full((*x.shape[:-1], k), -math.inf)], -1)
        least = padded.topk(k).values[..., -1:]
        return torch.softmax(x.masked_fill(x < least, -math.inf), -1)  # NaN is below nothing

    return along(dim, lambda x, live: over_live_entries(weigh, x, live), scores, mask)
