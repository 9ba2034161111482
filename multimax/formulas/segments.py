"""Softmax, entmax and ev-softmax of the segments of one long vector, by sums and maxima over segments.

``index`` int64 [n] gives each entry's segment, 0 to ``count`` - 1, in any order; segments may be empty. The formulas
are those of ``softmax``, ``entmax`` and ``evsoftmax``, with segments in place of rows.
"""

import math
from typing import Any

import torch
from torch import Tensor

from multimax.formulas.entmax import _of_largest
from multimax.formulas.newton import descend
from multimax.formulas.tsallis import distance_from_one, log_of_support, power_of_support, psi


def sums(x: Tensor, index: Tensor, count: int) -> Tensor:
    """The sum of each segment, [count]."""
    return x.new_zeros(count).scatter_add(0, index, x)


def below_max(x: Tensor, index: Tensor, count: int) -> Tensor:
    """``x`` minus the largest entry of its segment, which is held constant."""
    largest = x.new_full((count,), -math.inf).scatter_reduce(0, index, x.detach(), "amax")
    return x - largest[index]


def softmax(x: Tensor, index: Tensor, count: int) -> Tensor:
    """Softmax in operations that torch can differentiate any number of times."""
    e = below_max(x, index, count).exp()
    return e / sums(e, index, count)[index]


def evsoftmax(x: Tensor, index: Tensor, count: int, epsilon: float) -> Tensor:
    """Softmax with the exponentials of entries below the mean multiplied by ``epsilon``."""
    z = below_max(x, index, count)
    mean = sums(z.detach(), index, count) / sums(torch.ones_like(z), index, count)
    kept = z >= (mean * (1 + 8 * torch.finfo(x.dtype).eps))[index]
    lowered = z + (math.log(epsilon) - math.log1p(epsilon) if epsilon else -math.inf)
    return softmax(z.where(kept, lowered), index, count)


def entmax(x: Tensor, index: Tensor, count: int, alpha: float | Tensor) -> Tensor:
    """Entmax at ``alpha`` above 1 and at most 2: a number, or a tensor [n] with the alpha of each entry's segment."""
    weights: Tensor = _Entmax.apply(x, index, count, alpha)
    return weights


class _Entmax(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, index: Tensor, count: int, alpha: float | Tensor) -> Tensor:
        return _weigh(x, index, count, distance_from_one(alpha))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, index, ctx.count, alpha = inputs
        ctx.alpha = None if isinstance(alpha, Tensor) else alpha
        saved = output, index, *([alpha] if isinstance(alpha, Tensor) else [])
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        p, index, *alpha = ctx.saved_tensors
        d = distance_from_one(alpha[0] if alpha else ctx.alpha)
        grad_x = _by_jacobian(grad_outputs[0], p, index, ctx.count, d)
        return grad_x, None, None, -psi(log_of_support(p), d) * grad_x if ctx.needs_input_grad[3] else None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        dx, _, _, dalpha = tangents
        p, index, *alpha = ctx.saved_tensors
        d = distance_from_one(alpha[0] if alpha else ctx.alpha)
        change = torch.zeros_like(p) if dx is None else dx
        if dalpha is not None:
            change = change - psi(log_of_support(p), d) * dalpha
        return _by_jacobian(change, p, index, ctx.count, d)


def _by_jacobian(v: Tensor, p: Tensor, index: Tensor, count: int, d: float | Tensor) -> Tensor:
    """The product of ``v`` and the (symmetric) Jacobian at the weights ``p``."""
    s = power_of_support(p, 1 - d)
    return s * (v - (sums(s * v, index, count) / sums(s, index, count))[index])


def _weigh(x: Tensor, index: Tensor, count: int, d: float | Tensor) -> Tensor:
    """As in ``formulas.entmax``; the normaliser of an empty segment is not used."""
    z = below_max(x, index, count)
    by_power = not isinstance(d, Tensor) and d in (0.5, 1)
    of_segment = d.new_ones(count).scatter(0, index, d) if isinstance(d, Tensor) else d

    def weights(normaliser: Tensor) -> Tensor:
        if not by_power:
            return _of_largest(z, d, normaliser[index])
        u = torch.relu(z * d + normaliser[index])
        return u if d == 1 else u * u

    def step(normaliser: Tensor) -> Tensor:
        p = weights(normaliser)
        slopes = power_of_support(p, 1 - d)
        total, slope = sums(p, index, count), sums(slopes, index, count)
        if by_power:
            return normaliser - (total - (1 if d == 1 else total.sqrt())) / slope
        share = -total * torch.expm1(-of_segment * total.log()) / (torch.exp(of_segment * normaliser) * slope)
        return normaliser + torch.log1p(-share) / of_segment

    p = weights(descend(step, z.new_full((count,), 1.0 if by_power else 0.0)))
    return p / sums(p, index, count)[index]
