"""Normmax: the distribution that maximises the expected score minus its own norm.

    p = argmax over the simplex of p.x - ||p||_alpha,      p proportional to relu(x - tau)^(1 / (alpha - 1)),

with tau such that relu(x - tau)^(1 / (alpha - 1)) has the alpha-norm 1. Blondel, Martins, Niculae, "Learning with
Fenchel-Young losses", JMLR 21 (2020), arXiv 1901.02324; checked against ``normmax_bisect`` of the entmax package 1.3.
"""

import torch
from torch import Tensor

from multimax.formulas.newton import root
from multimax.formulas.rows import along, check_number, over_live_entries
from multimax.formulas.tsallis import power_of_support
from multimax.reweight._registry import register


@register("normmax")
def normmax(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None, alpha: float = 2.0) -> Tensor:
    """Normmax at ``alpha``; the other arguments, result and errors as for ``softmax``.

    Raises:
        TypeError: ``alpha`` is not a number.
        ValueError: ``alpha`` is not above 1, or is infinite.
    """
    check_number("alpha", alpha, above=1)
    return along(dim, lambda x, live: over_live_entries(lambda rows: weigh(rows, alpha), x, live), scores, mask)


def weigh(x: Tensor, alpha: float | Tensor) -> Tensor:
    """Weights of rows ``x`` with dead entries at -inf, for an alpha above 1, a number or a tensor [..., 1]."""
    power = 1 / (alpha - 1)

    def step(z: Tensor, a: Tensor) -> Tensor:
        """With a = -tau, a Newton step on the alpha / (alpha - 1)-norm of relu(z + a), less 1, which is convex."""
        u = power_of_support(z + a, power)
        total = (torch.relu(z + a) * u).sum(-1, keepdim=True)
        return a - (total - total.pow(1 / alpha)) / u.sum(-1, keepdim=True)

    z = x - x.detach().amax(-1, keepdim=True)
    u = power_of_support(z + root(step, z, torch.ones_like(z[..., :1])), power)
    return u / u.sum(-1, keepdim=True)
