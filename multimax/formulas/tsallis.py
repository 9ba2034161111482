"""The Tsallis entropy and its derivative with respect to alpha, also near its Shannon limit alpha = 1.

With d = alpha - 1 and l = log p, both use two functions that stay smooth where their quotients become 0/0:

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
    """alpha - 1, kept away from 0."""
    d = alpha - 1
    if isinstance(d, Tensor):
        return d.masked_fill(d.abs() < SMALLEST_D, SMALLEST_D)
    return d if abs(d) >= SMALLEST_D else SMALLEST_D


def log_of_support(weights: Tensor) -> Tensor:
    """log p where p > 0, and 0 elsewhere."""
    return weights.where(weights > 0, 1).log()


def power_of_support(base: Tensor, exponent: float | Tensor) -> Tensor:
    """base^exponent where base > 0, and 0 elsewhere for any exponent, derivatives included."""
    return base.where(base > 0, 1).pow(exponent) * (base > 0)


def psi(log_p: Tensor, d: float | Tensor) -> Tensor:
    """(1 - e^x (1 - x)) / d^2 with x = d log p."""
    x = d * log_p
    is_near = x.abs() < 0.1
    near, far = x.where(is_near, 0), x.masked_fill(is_near, 1)
    series = torch.zeros_like(x)
    for k in range(11, 1, -1):  # sum_k>=2 (k - 1) / k! x^(k - 2)
        series = series * near + (k - 1) / math.factorial(k)
    closed = (far * far.exp() - far.expm1()) / far**2
    return log_p**2 * torch.where(is_near, series, closed)


def entropy(weights: Tensor, alpha: float | Tensor) -> Tensor:
    """``formula`` over the last dimension, Shannon's entropy at alpha = 1; a tensor ``alpha`` is 0-d or [..., 1]."""
    if not isinstance(alpha, Tensor) and alpha in (1.5, 2):  # without a logarithm
        power = weights if alpha == 2 else weights.where(weights > 0, 1).sqrt()
        return (weights * (1 - power)).sum(-1) / (alpha * (alpha - 1))
    d = distance_from_one(alpha)
    return -(weights * torch.expm1(d * log_of_support(weights)) / (d * (1 + d))).sum(-1)


def entropy_slope(weights: Tensor, alpha: float | Tensor) -> Tensor:
    """Derivative of ``entropy`` with respect to alpha at fixed weights."""
    d = distance_from_one(alpha)
    log_p = log_of_support(weights)
    return (weights * (torch.expm1(d * log_p) / (d * (1 + d)) - psi(log_p, d)) / (1 + d)).sum(-1)
