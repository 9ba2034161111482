"""Softmax, entmax and ev-softmax of the segments of one long vector, from sums and maxima of segments alone.

``index`` int64 [n] says to which of the ``count`` segments an entry of [n] belongs, in any order; segments may be
empty. The formulas are those of ``softmax``, ``entmax`` and ``evsoftmax``, with a segment where these have a row.
"""

import math
from typing import Any

import torch
from torch import Tensor

from multimax.formulas.entmax import MAX_STEPS, _of_largest
from multimax.formulas.torch_private import is_readable
from multimax.formulas.tsallis import distance_from_one, log_of_support, psi


def sums(x: Tensor, index: Tensor, count: int) -> Tensor:
    """[count]"""
    return x.new_zeros(count).scatter_add(0, index, x)


def below_max(x: Tensor, index: Tensor, count: int) -> Tensor:
    """``x`` less the largest of its segment, which is held constant."""
    largest = x.new_full((count,), -math.inf).scatter_reduce(0, index, x.detach(), "amax")
    return x - largest[index]


def softmax(x: Tensor, index: Tensor, count: int) -> Tensor:
    """By operations that torch differentiates any number of times."""
    e = below_max(x, index, count).exp()
    return e / sums(e, index, count)[index]


def evsoftmax(x: Tensor, index: Tensor, count: int, epsilon: float) -> Tensor:
    """Softmax of the entries not below the mean; with ``epsilon`` the others keep a trace."""
    z = below_max(x, index, count)
    mean = sums(z.detach(), index, count) / sums(torch.ones_like(z), index, count)
    kept = z >= (mean * (1 + 8 * torch.finfo(x.dtype).eps))[index]
    lowered = z + (math.log(epsilon) - math.log1p(epsilon) if epsilon else -math.inf)
    return softmax(z.where(kept, lowered), index, count)


def entmax(x: Tensor, index: Tensor, count: int, alpha: float | Tensor) -> Tensor:
    """Entmax at ``alpha`` above 1 and at most 2, a number or a tensor [n] of what holds for each entry's segment."""
    weights: Tensor = _Entmax.apply(x, index, count, alpha)
    return weights


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, count: int, alpha: float | Tensor) -> Tensor:
        p = _weigh(x, index, count, distance_from_one(alpha))
        ctx.count, ctx.alpha = count, None if isinstance(alpha, Tensor) else alpha
        ctx.save_for_backward(p, index, *([alpha] if isinstance(alpha, Tensor) else []))
        return p

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        p, index, *rest = ctx.saved_tensors
        d = distance_from_one(rest[0] if rest else ctx.alpha)
        s = p.where(p > 0, 1).pow(1 - d) * (p > 0)
        mean = sums(s * grad, index, ctx.count) / sums(s, index, ctx.count)
        grad_x = s * (grad - mean[index])
        return grad_x, None, None, -psi(log_of_support(p), d) * grad_x if ctx.needs_input_grad[3] else None


def _weigh(x: Tensor, index: Tensor, count: int, d: float | Tensor) -> Tensor:
    z = below_max(x, index, count)
    if not is_readable(z):
        return _of_near(z, index, count, d)
    near = z * d > -1  # no other entry can have weight
    (where,) = near.nonzero(as_tuple=True)
    found = _of_near(z[where], index[where], count, d[where] if isinstance(d, Tensor) else d)
    return torch.zeros_like(z).index_put((where,), found)


def _of_near(z: Tensor, index: Tensor, count: int, d: float | Tensor) -> Tensor:
    """Newton's method as in ``formulas.entmax``, down to the root from the side on which no step overshoots."""
    by_power = not isinstance(d, Tensor) and d in (0.5, 1)
    normaliser = z.new_full((count,), 1.0 if by_power else 0.0)
    of_segment = d.new_ones(count).scatter(0, index, d) if isinstance(d, Tensor) else d
    for _ in range(MAX_STEPS):
        if by_power:
            u = torch.relu(z * d + normaliser[index])
            p, slopes = (u, (u > 0).to(u.dtype)) if d == 1 else (u * u, u)
            total = sums(p, index, count)
            following = normaliser - (total - (1 if d == 1 else total.sqrt())) / sums(slopes, index, count)
        else:
            p = _of_largest(z, d, normaliser[index])
            s = p.where(p > 0, 1).pow(1 - d) * (p > 0)
            total = sums(p, index, count)
            step = -total * torch.expm1(-of_segment * total.log())
            share = step / (torch.exp(of_segment * normaliser) * sums(s, index, count))
            following = normaliser + torch.log1p(-share) / of_segment
        following = torch.fmin(following, normaliser)  # rounding must not start a walk; an empty segment's is NaN
        if is_readable(following) and torch.equal(following, normaliser):
            break
        normaliser = following
    return p / total[index]
