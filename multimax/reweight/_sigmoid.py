"""Sigmoid attention, p_i = sigmoid(x_i - log n), for n live entries in the row.

Ramapuram et al., "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", ICLR 2025, arXiv 2409.04431: with
the bias -log n, a row sums to about one at the start of training.
"""

import torch
from torch import Tensor

from multimax.formulas.rows import along, count_live, over_live_entries
from multimax.reweight._registry import register


@register("sigmoid", sums_to_one=False, can_be_zero=False, needs_length=True)
def sigmoid(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """Sigmoid of the scores minus the logarithm of their number; arguments, result and errors as for ``softmax``."""

    def of_rows(scores: Tensor, mask: Tensor | None) -> Tensor:
        log_n = count_live(scores, mask).log()
        return over_live_entries(lambda x: torch.sigmoid(x - log_n), scores, mask)

    return along(dim, of_rows, scores, mask)
