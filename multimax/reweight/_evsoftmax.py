"""Ev-softmax: softmax over the entries that are not below the mean of their row.

Chen, Itkina, Senanayake, Kochenderfer, "Evidential Softmax for Sparse Multimodal Distributions in Deep Generative
Models", NeurIPS 2021, arXiv 2110.14182. For training, every entry keeps a trace, so that the log-likelihood exists:

    p_i  proportional to  ([x_i >= mean(x)] + epsilon) * exp(x_i)

The backward is softmax's at p: which entries are kept does not move under a small change of the scores.
"""

import math

import torch
from torch import Tensor

from multimax import kernels
from multimax.kernels import operators, row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._registry import register
from multimax.reweight._rows import check_arguments, compute_dtype, over_live_entries

TRAINING_EPSILON = 1e-6  # the paper's


def evsoftmax(scores: Tensor, mask: Tensor | None = None, epsilon: float = 0.0) -> Tensor:
    """Ev-softmax over the last dimension; the mean is taken over the live entries.

    Args:
        scores: floating point [..., n].
        mask: bool, broadcastable to ``scores``, True where an entry is live; None: all are.
        epsilon: what entries below the mean are multiplied by; 0 makes them exactly zero.

    Returns:
        Weights in the shape and dtype of ``scores``.

    Raises:
        TypeError: ``scores`` not floating point, or ``mask`` not bool.
        ValueError: ``scores`` without a dimension, a ``mask`` that does not broadcast to them, or ``epsilon`` < 0.
    """
    if epsilon < 0:
        raise ValueError(f"epsilon must not be negative, got {epsilon}")
    check_arguments(scores, mask)
    if kernels.path(scores) == "eager":
        return over_live_entries(lambda x: torch.softmax(_log_weights(x, epsilon), -1), scores, mask)
    return operators.evsoftmax(scores, mask, epsilon)


def _log_weights(x: Tensor, epsilon: float) -> Tensor:
    """Logarithm of the unnormalised weights of rows ``x`` (dead entries are -inf there)."""
    # Relative to the maximum all terms of the mean have one sign: it is as exact as one term, and an overflow only
    # lowers a mean below which every weight is zero anyway.
    below_max = x - x.amax(-1, keepdim=True)
    live = x > -math.inf
    mean = below_max.where(live, 0).sum(-1, keepdim=True) / live.sum(-1, keepdim=True)
    # An entry at the mean stays, however the mean was rounded: 1, 2, 3 keeps its 2 in any order of summation.
    kept = below_max >= mean * (1 + 8 * torch.finfo(x.dtype).eps)
    return torch.where(kept, x, x + (math.log(epsilon) - math.log1p(epsilon) if epsilon else -math.inf))


@register("evsoftmax")
class EvSoftmax(Reweighting):
    """``evsoftmax`` as a module; its loss is the negative log-likelihood of the form with the paper's epsilon, 1e-6.

    Args:
        epsilon: of ``forward``; see ``evsoftmax``.
    """

    has_loss = True

    def __init__(self, epsilon: float = 0.0) -> None:
        super().__init__()
        if epsilon < 0:
            raise ValueError(f"epsilon must not be negative, got {epsilon}")
        self.epsilon = epsilon

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon}"

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return evsoftmax(scores, mask, self.epsilon)

    def row_kernel(self) -> row_kernels.EvSoftmax:
        return row_kernels.EvSoftmax(self.epsilon)

    def log_weights(self, scores: Tensor) -> Tensor:
        return _log_weights(scores.to(compute_dtype(scores)), self.epsilon or TRAINING_EPSILON)
