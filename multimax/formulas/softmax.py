"""Softmax: exp(x_i) / sum_j exp(x_j)."""

import torch
from torch import Tensor


def formula(x: Tensor) -> Tensor:
    e = torch.exp(x)
    return e / e.sum(-1, keepdim=True)


def weigh(x: Tensor) -> Tensor:
    """Weights of rows ``x``; dead entries are -inf."""
    return torch.softmax(x, -1)


def gradient(grad: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the scores, to be differentiated again; the Jacobian is symmetric, so it is the tangent too."""
    return weights * (grad - (weights * grad).sum(-1, keepdim=True))
