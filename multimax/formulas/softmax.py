"""Softmax: exp(x_i) / sum_j exp(x_j)."""

import torch
from torch import Tensor


def formula(x: Tensor) -> Tensor:
    e = torch.exp(x)
    return e / e.sum(-1, keepdim=True)


def weigh(x: Tensor) -> Tensor:
    """Weights of rows ``x`` with dead entries at -inf."""
    return torch.softmax(x, -1)


def gradient(grad: Tensor, weights: Tensor) -> Tensor:
    """Gradient for the scores, differentiable; it is also the tangent, since the Jacobian is symmetric."""
    return weights * (grad - (weights * grad).sum(-1, keepdim=True))
