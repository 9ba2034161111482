"""Sparsemax, 1.5-entmax and alpha-entmax, without a sort.

Martins & Astudillo, "From Softmax to Sparsemax", ICML 2016, arXiv 1602.02068; Peters, Niculae, Martins, "Sparse
Sequence-to-Sequence Models", ACL 2019, arXiv 1905.05702; Correia, Niculae, Martins, "Adaptively Sparse Transformers",
EMNLP 2019, arXiv 1909.00015 (alpha learned per head). Checked against version 1.3 of the authors' entmax package.

    p_i = relu((alpha - 1) x_i - tau)^(1 / (alpha - 1)),      tau such that sum_i p_i = 1

alpha = 2 is sparsemax; alpha -> 1 is softmax; below 1 no weight is zero, and the tails follow a power law. Up to 2 the
normaliser is found by Newton's method on a function that is convex and increasing (concave below 1), from the side
where no step overshoots. Above 2 there is no such function, and it is found by bisection; the weights then rise steeply
at the edge of the support, where their error is about the (alpha - 1)-th root of the rounding error.

With s_i = p_i^(2 - alpha) on the support and psi of ``tsallis``, the Jacobian J v = s (v - sum s v / sum s) is
symmetric, so that

    dp = J (dx - psi dalpha),      dx = J g,      dalpha = -sum_i psi_i dx_i      for the gradient g.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from multimax.formulas.newton import descend
from multimax.formulas.torch_private import derivatives_under_way, is_readable, is_transformed
from multimax.formulas.tsallis import distance_from_one, log_of_support, power_of_support, psi


def formula(x: Tensor, alpha: float) -> Tensor:
    """For alpha > 1, with tau found by bisection."""
    z = (alpha - 1) * x
    low, high = z.amax(-1, keepdim=True) - 1, z.amax(-1, keepdim=True)
    for _ in range(100):
        tau = (low + high) / 2
        too_low = (torch.relu(z - tau) ** (1 / (alpha - 1))).sum(-1, keepdim=True) >= 1
        low, high = tau.where(too_low, low), high.where(too_low, tau)
    p = torch.relu(z - low) ** (1 / (alpha - 1))
    return p / p.sum(-1, keepdim=True)


def weigh(x: Tensor, alpha: float | Tensor) -> Tensor:
    """Weights of rows ``x``, float32 or float64 with dead entries at -inf; a tensor ``alpha`` broadcasts to them.

    torch.autograd can differentiate the weights any number of times, torch.func and forward mode up to four times. If a
    tensor ``alpha`` cannot be read, because it is traced or batched, values above 2 give NaN.

    Raises:
        NotImplementedError: a fifth derivative by torch.func.
    """
    if is_transformed():
        return _expanded(x, alpha)
    weights: Tensor = _Entmax.apply(x, alpha)
    return weights


def _weigh(x: Tensor, alpha: float | Tensor) -> Tensor:
    z = x - x.amax(-1, keepdim=True)
    d = distance_from_one(alpha)
    if not isinstance(alpha, Tensor) and alpha == 2:
        p = _newton(lambda a: _sparsemax_step(z, a), torch.ones_like(z[..., :1]))
    elif not isinstance(alpha, Tensor) and alpha == 1.5:
        p = _newton(lambda a: _entmax15_step(z / 2, a), torch.ones_like(z[..., :1]))
    elif not isinstance(d, Tensor):
        p = _newton(lambda m: _entmax_step(z, d, m), torch.zeros_like(z[..., :1])) if d <= 1 else _bisect(z, d)
    else:
        p = _newton(lambda m: _entmax_step(z, d.clamp(max=1), m), torch.zeros_like(z[..., :1]))
        if not is_readable(d):
            p = p.where(d <= 1, math.nan)
        elif (d > 1).any():
            p = p.where(d <= 1, _bisect(z, d))
    # With many entries, one unit in the last place of the normaliser would show in the sum.
    return p / p.sum(-1, keepdim=True)


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, alpha: float | Tensor) -> Tensor:
        return _weigh(x, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        alpha = inputs[1]
        is_tensor = isinstance(alpha, Tensor)
        ctx.alpha = None if is_tensor else alpha
        ctx.save_for_backward(output, *([alpha] if is_tensor else []))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        p, *rest = ctx.saved_tensors
        alpha = rest[0] if rest else ctx.alpha
        return gradient(grad, p, alpha, of_alpha=ctx.needs_input_grad[1])


def _expanded(x: Tensor, alpha: float | Tensor) -> Tensor:
    """The weights in operations that torch itself can differentiate: it cannot nest tangents of autograd functions.

    This is a Runge-Kutta step of length zero, from the arguments held constant to the arguments. Its value and first
    four derivatives are those of the weights.
    """
    if derivatives_under_way() > 4:
        raise NotImplementedError("entmax has four derivatives by torch.func; take more with torch.autograd.grad")
    alpha_start = alpha.detach() if isinstance(alpha, Tensor) else alpha
    p = _weigh(x.detach(), alpha_start)
    dx, dalpha = (x - x.detach()).where(p > 0, 0), alpha - alpha_start
    change = k = torch.zeros_like(p)
    for share, weight in ((0, 1 / 6), (1 / 2, 1 / 3), (1 / 2, 1 / 3), (1, 1 / 6)):
        k = tangent(dx, dalpha, p + share * k, alpha_start + share * dalpha)
        change = change + weight * k
    return p + change


def gradient(
    grad: Tensor, weights: Tensor, alpha: float | Tensor, *, of_alpha: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Gradients for the scores and, if ``of_alpha``, for alpha, which broadcasts to the weights; differentiable."""
    d = distance_from_one(alpha)
    s = power_of_support(weights, 1 - d)
    total = s.sum(-1, keepdim=True)
    grad_x = s * (grad - (s * grad).sum(-1, keepdim=True) / total.where(total > 0, 1))
    if not (of_alpha and isinstance(alpha, Tensor)):
        return grad_x, None
    return grad_x, -(psi(log_of_support(weights), d) * grad_x).sum_to_size(alpha.shape)


def tangent(dx: Tensor, dalpha: float | Tensor, weights: Tensor, alpha: float | Tensor) -> Tensor:
    """Tangent of the weights for tangents of the scores and of alpha; differentiable."""
    if isinstance(dalpha, Tensor):
        dx = dx - psi(log_of_support(weights), distance_from_one(alpha)) * dalpha
    return gradient(dx, weights, alpha)[0]


def _newton(step: Callable[[Tensor], tuple[Tensor, Tensor]], normaliser: Tensor) -> Tensor:
    """Weights at the limit of ``step``, which maps a normaliser to its weights and the next normaliser."""
    return step(descend(lambda a: step(a)[1], normaliser))[0]


def _sparsemax_step(z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """p = relu(z + a), with a the largest weight."""
    p = torch.relu(z + a)
    return p, a - (p.sum(-1, keepdim=True) - 1) / (p > 0).sum(-1, keepdim=True)


def _entmax15_step(y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """p = relu(y + a)^2; a Newton step on the Euclidean norm of relu(y + a), less 1."""
    root = torch.relu(y + a)
    p = root.square()
    total = p.sum(-1, keepdim=True)
    return p, a - (total - total.sqrt()) / root.sum(-1, keepdim=True)


def _entmax_step(z: Tensor, d: float | Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """p = relu(d z + a)^(1/d), a = e^(d m); m is the logarithm of the largest weight, so that d may approach 0.

    A Newton step on the (1/d)-norm of relu(d z + a), less 1. For rows with equal entries this is linear, and one step
    is exact. For d below 0 the norm is concave and a increases, so m still decreases.
    """
    a = torch.exp(d * m)
    p = _of_largest(z, d, m)
    s = power_of_support(p, 1 - d)
    total = p.sum(-1, keepdim=True)
    share = -total * torch.expm1(-d * total.log()) / (a * s.sum(-1, keepdim=True))
    return p, m + torch.log1p(-share) / d


def _bisect(z: Tensor, d: float | Tensor) -> Tensor:
    """Weights with m found by bisection."""
    low = torch.full_like(z[..., :1], -math.log(z.shape[-1]))
    high = torch.zeros_like(low)
    for _ in range(62 if z.dtype == torch.float64 else 30):
        m = (low + high) / 2
        too_low = _of_largest(z, d, m).sum(-1, keepdim=True) < 1
        low, high = m.where(too_low, low), high.where(too_low, m)
    return _of_largest(z, d, high)


def _of_largest(z: Tensor, d: float | Tensor, m: Tensor) -> Tensor:
    """Weights of ``z``, whose largest entry is 0, for a largest weight of e^m."""
    height = d * z / torch.exp(d * m)
    inside = height > -1  # at -1 the slope of the logarithm is infinite, and 0 times that is NaN
    return torch.exp(m + torch.log1p(height.where(inside, 0)) / d).where(inside, 0)
