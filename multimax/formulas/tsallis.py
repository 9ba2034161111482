"""The Tsallis entropy and its derivative by alpha, sound down to its Shannon limit alpha = 1.

With d = alpha - 1 and l = log p both are built on two functions that stay smooth where their quotients become 0/0:

    E(l) = expm1(d l) / d,      dE/dd = psi(l) = (1 - e^(d l) (1 - d l)) / d^2  ->  l^2 / 2 as d -> 0.
"""

import math

import torch
from torch import Tensor

SMALLEST_D = 1e-20  # stands in for 0: E differs from its limit l by d l^2 / 2, far below rounding


def formula(p: Tensor, alpha: float) -> Tensor:
    """sum_i (p_i - p_i^alpha) / (alpha (alpha - 1)), for alpha other than 1."""
    return (p - p**alpha).sum(-1) / (alpha * (alpha - 1))


def distance_from_one(alpha: float | Tensor) -> float | Tensor:
    """alpha - 1, kept above 0; NaN for an alpha in a tensor that is below 1."""
    if isinstance(alpha, Tensor):
        return (alpha - 1).clamp(min=SMALLEST_D).where(alpha >= 1, math.nan)
    return max(alpha - 1, SMALLEST_D)


def log_of_support(weights: Tensor) -> Tensor:
    """log p where p > 0, and 0 elsewhere."""
    return weights.where(weights > 0, 1).log()


def psi(log_p: Tensor, d: float | Tensor) -> Tensor:
    """(1 - e^x (1 - x)) / d^2 with x = d log p <= 0."""
    x = d * log_p
    series = torch.zeros_like(x)
    for k in range(11, 1, -1):  # sum_k>=2 (k - 1) / k! x^(k - 2)
        series = series * x + (k - 1) / math.factorial(k)
    far = x.clamp(max=-0.1)
    closed = (far * far.exp() - far.expm1()) / far**2
    return log_p**2 * torch.where(x > -0.1, series, closed)


def entropy(weights: Tensor, alpha: float | Tensor) -> Tensor:
    """``formula`` over the last dimension for alpha >= 1; Shannon's entropy at 1."""
    d = distance_from_one(alpha)
    e = torch.expm1(d * log_of_support(weights)) / d
    return -(weights * e).sum(-1) / (1 + d)


def entropy_slope(weights: Tensor, alpha: float | Tensor) -> Tensor:
    """Derivative of ``entropy`` by alpha at fixed weights."""
    d = distance_from_one(alpha)
    return -((weights * psi(log_of_support(weights), d)).sum(-1) + entropy(weights, alpha)) / (1 + d)
