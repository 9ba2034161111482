"""Softpick: a rectified softmax whose rows may sum to less than one and need no sink.

    p_i = relu(exp(x_i) - 1) / (sum_j |exp(x_j) - 1| + epsilon)

Zuhri, Fuadi, Aji, "Softpick: No Attention Sink, No Massive Activations with Rectified Softmax", 2025, arXiv 2504.20966.
As in the authors' code, github.com/zaydzuhri/softpick-attention, numerator and denominator are multiplied by e^-m,
where m is the larger of 0 and the largest score, and epsilon = 1e-8 is added after that.
"""

import torch
from torch import Tensor

from multimax.formulas.rows import along, over_live_entries
from multimax.reweight._registry import register

EPSILON = 1e-8


@register("softpick", sums_to_one=False, needs_length=True)  # entries below 0 count in the denominator
def softpick(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """Rectified softmax; arguments, result and errors as for ``softmax``."""
    # exp(0) - 1 = 0, so dead entries are set to 0.
    return along(dim, lambda x, live: over_live_entries(_weigh, x, live, dead=0.0), scores, mask)


def _weigh(x: Tensor) -> Tensor:
    m = x.detach().amax(-1, keepdim=True).clamp(min=0)
    above = torch.relu(x)
    below = x - above
    # e^-m (e^x - 1) above and below 0, without the digits that subtraction would lose near 0.
    picked, dropped = -torch.exp(above - m) * torch.expm1(-above), -torch.exp(-m) * torch.expm1(below)
    return picked / ((picked + dropped).sum(-1, keepdim=True) + EPSILON)
