"""Stieltjes: a softmax with the tails of a power law.

    p_i = (lambda - x_i)^-q,      lambda > max x such that sum_i p_i = 1

Gulko & Kumar, "Efficient GPU Implementation of Stieltjes Attention", 2026, github.com/gulkoa/stieltjes-triton. Their
code takes three Newton steps towards lambda, so a trained model depends on that number; here lambda is the root.
"""

import torch
from torch import Tensor

from multimax.formulas.newton import root
from multimax.formulas.rows import along, check_number, over_live_entries
from multimax.reweight._registry import register


@register("stieltjes", can_be_zero=False)
def stieltjes(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None, q: float = 4.0) -> Tensor:
    """Stieltjes weights of order ``q``, sharper for larger ``q``; the rest as for ``softmax``.

    Raises:
        TypeError: ``q`` is not a number.
        ValueError: ``q`` is not above 0, or is infinite.
    """
    check_number("q", q, above=0)
    q = float(q)  # torch cannot raise to an int beyond 64 bits

    def step(z: Tensor, a: Tensor) -> Tensor:
        """With a = -lambda, a Newton step on (sum (lambda - z)^-q)^(-1/q), less 1."""
        distance = -a - z
        total = distance.pow(-q).sum(-1, keepdim=True)
        return a - (1 - total.pow(-1 / q)) * total.pow(1 + 1 / q) / distance.pow(-q - 1).sum(-1, keepdim=True)

    def weigh(x: Tensor) -> Tensor:
        z = x - x.detach().amax(-1, keepdim=True)
        p = (-root(step, z, torch.full_like(z[..., :1], -1.0)) - z).pow(-q)
        return p / p.sum(-1, keepdim=True)

    return along(dim, lambda x, live: over_live_entries(weigh, x, live), scores, mask)
