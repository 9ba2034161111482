"""Elastic softmax, p_i = relu(softmax(x)_i + tau / n), for n live entries in the row: small weights become zero.

"Attention Needs to Focus: A Unified Perspective on Attention Allocation", 2026, arXiv 2601.00919. tau is learned, one
per head, and starts at -1.
"""

import torch
from torch import Tensor, nn

from multimax.formulas.rows import along, check_count, compute_dtype, count_live, over_live_entries, per_head
from multimax.reweight._base import Reweighting
from multimax.reweight._registry import register


@register("elastic_softmax")
class ElasticSoftmax(Reweighting):
    """Softmax with a learned offset tau / n, cut off at zero.

    Args:
        num_heads: heads of the attention it serves, each with its own tau; 1 takes scores of any shape.
    """

    sums_to_one = False
    needs_length = has_parameters = True

    def __init__(self, num_heads: int = 1) -> None:
        super().__init__()
        check_count("num_heads", num_heads)
        self.tau = nn.Parameter(torch.full((num_heads,), -1.0))

    def reset_parameters(self) -> None:
        """Set every tau to -1."""
        nn.init.constant_(self.tau, -1.0)

    def extra_repr(self) -> str:
        return f"num_heads={self.tau.numel()}"

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return along(-1, self._weigh, scores, mask)

    def _weigh(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        offset = per_head("tau", self.tau, scores).to(compute_dtype(scores)) / count_live(scores, mask)
        if mask is not None:
            offset = offset.where(mask, -1)
        return over_live_entries(lambda x: torch.relu(torch.softmax(x, -1) + offset), scores, mask)
