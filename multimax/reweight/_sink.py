"""Softmax with a sink: one more score s, whose weight is dropped.

    p_i = exp(x_i) / (exp(s) + sum_j exp(x_j))

s = 0 is softmax-plus-one (Miller, "Attention Is Off By One", 2023, evanmiller.org/attention-is-off-by-one.html).
A learned sink per head is that of gpt-oss (OpenAI, 2025, arXiv 2508.10925).
"""

import torch
from torch import Tensor, nn

from multimax.formulas.rows import along, check_count, over_live_entries, per_head
from multimax.reweight._base import Reweighting
from multimax.reweight._registry import register


def _with_sink(scores: Tensor, sink: Tensor, mask: Tensor | None) -> Tensor:
    """Weights of ``scores`` beside ``sink``, which broadcasts over them."""

    def weigh(x: Tensor) -> Tensor:
        beside = torch.cat([x, sink.to(x.dtype).expand_as(x[..., :1])], -1)
        return torch.softmax(beside, -1)[..., :-1]

    return over_live_entries(weigh, scores, mask)


@register("softmax_plus_one", sums_to_one=False, can_be_zero=False)
def softmax_plus_one(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """Softmax beside one more score of 0; arguments, result and errors as for ``softmax``."""
    return along(dim, lambda x, live: _with_sink(x, x.new_zeros(()), live), scores, mask)


@register("sink")
class Sink(Reweighting):
    """Softmax beside a learned score, which is initially zero.

    Args:
        num_heads: heads of the attention it serves, each with its own sink; 1 takes scores of any shape.
    """

    sums_to_one = can_be_zero = False
    has_parameters = True

    def __init__(self, num_heads: int = 1) -> None:
        super().__init__()
        check_count("num_heads", num_heads)
        self.sink = nn.Parameter(torch.zeros(num_heads))

    def reset_parameters(self) -> None:
        """Set every sink to zero, which is softmax-plus-one."""
        nn.init.zeros_(self.sink)

    def extra_repr(self) -> str:
        return f"num_heads={self.sink.numel()}"

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return along(-1, lambda x, live: _with_sink(x, per_head("sink", self.sink, x), live), scores, mask)
