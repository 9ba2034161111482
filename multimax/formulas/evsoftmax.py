"""Ev-softmax: softmax over the entries that are not below the mean of their row.

Chen, Itkina, Senanayake, Kochenderfer, "Evidential Softmax for Sparse Multimodal Distributions in Deep Generative
Models", NeurIPS 2021, arXiv 2110.14182. With an epsilon no weight is zero, so the log-likelihood exists:

    p_i  proportional to  ([x_i >= mean(x)] + epsilon) exp(x_i)

Gradient and tangent are softmax's at p, since a small change in the scores does not change which entries are kept.
"""

import math

import torch
from torch import Tensor

TRAINING_EPSILON = 1e-6  # the paper's


def formula(x: Tensor, epsilon: float = 0.0) -> Tensor:
    kept = x >= x.mean(-1, keepdim=True)
    e = (kept.to(x.dtype) + epsilon) * torch.exp(x)
    return e / e.sum(-1, keepdim=True)


def weigh(x: Tensor, epsilon: float) -> Tensor:
    """Weights of rows ``x`` with dead entries at -inf; the mean is that of the live ones."""
    return torch.softmax(log_weights(x, epsilon), -1)


def log_weights(x: Tensor, epsilon: float) -> Tensor:
    """Logarithm of the unnormalised weights of rows ``x``."""
    # Relative to the maximum, all terms of the mean have the same sign, so nothing cancels. An overflow only lowers a
    # mean below which every weight is zero anyway.
    below_max = x - x.amax(-1, keepdim=True)
    live = x > -math.inf
    mean = below_max.where(live, 0).sum(-1, keepdim=True) / live.sum(-1, keepdim=True)
    # An entry at the mean is kept however the mean is rounded: 1, 2, 3 keeps its 2 in any order of summation.
    kept = below_max >= mean * (1 + 8 * torch.finfo(x.dtype).eps)
    return torch.where(kept, x, x + (math.log(epsilon) - math.log1p(epsilon) if epsilon else -math.inf))
