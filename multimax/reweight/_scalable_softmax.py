"""Scalable softmax, softmax(s log(n) x), for n live entries in the row: as sharp in a long row as in a short one.

Nakanishi, "Scalable-Softmax Is Superior for Attention", 2025, arXiv 2501.19399. s is learned, one per head.
"""

import torch
from torch import Tensor, nn

from multimax.formulas.rows import check_arguments, check_count, compute_dtype, count_live, per_head
from multimax.reweight._base import Reweighting
from multimax.reweight._registry import register
from multimax.reweight._softmax import softmax

START = 0.43  # the one value of s that the paper prints, in Figure 1


@register("scalable_softmax")
class ScalableSoftmax(Reweighting):
    """Softmax of the scores times s log n; its loss is the cross-entropy, where n is the number of classes.

    Args:
        num_heads: heads of the attention it serves, each with its own s; 1 takes scores of any shape.
    """

    has_loss = needs_length = has_parameters = True
    can_be_zero = False

    def __init__(self, num_heads: int = 1) -> None:
        super().__init__()
        check_count("num_heads", num_heads)
        self.s = nn.Parameter(torch.full((num_heads,), START))

    def reset_parameters(self) -> None:
        """Set every s to its initial value."""
        nn.init.constant_(self.s, START)

    def extra_repr(self) -> str:
        return f"num_heads={self.s.numel()}"

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        check_arguments(scores, mask)
        return softmax(self._scaled(scores, mask), mask=mask).to(scores.dtype)

    def modulate(self, scores: Tensor) -> Tensor:
        return self._scaled(scores, None).to(scores.dtype)

    def log_weights(self, scores: Tensor) -> Tensor:
        return self._scaled(scores, None)

    def _scaled(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        x = scores.to(compute_dtype(scores))
        if mask is not None:
            x = x.where(mask, 0)  # else dead entries would reach the gradient of s
        rate = per_head("s", self.s, x).to(x.dtype) * count_live(x, mask).log()
        largest = torch.finfo(x.dtype).max
        return (x * rate).clamp(-largest, largest)
