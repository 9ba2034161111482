"""ReLU attention, p_i = relu(x_i) / n, for n live entries in the row.

Wortsman, Lee, Gilmer, Kornblith, "Replacing softmax with ReLU in Vision Transformers", 2023, arXiv 2309.08586.
"""

import torch
from torch import Tensor

from multimax.formulas.rows import along, count_live, over_live_entries
from multimax.reweight._registry import register


@register("relu", sums_to_one=False, needs_length=True)
def relu(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """The positive part of the scores, divided by their number; arguments, result and errors as for ``softmax``."""

    def of_rows(scores: Tensor, mask: Tensor | None) -> Tensor:
        n = count_live(scores, mask)
        return over_live_entries(lambda x: torch.relu(x) / n, scores, mask)

    return along(dim, of_rows, scores, mask)
