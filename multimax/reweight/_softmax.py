"""Softmax, p_i = exp(x_i) / sum_j exp(x_j): PyTorch's own, with the mask as an argument."""

from functools import partial

import torch
from torch import Tensor

from multimax.kernels import row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._registry import register
from multimax.reweight._rows import check_arguments, over_live_entries


def softmax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over the last dimension; without a mask ``torch.softmax`` bit for bit.

    Args:
        scores: floating point [..., n].
        mask: bool, broadcastable to ``scores``, True where an entry is live; None: all are.

    Returns:
        Weights in the shape and dtype of ``scores``.

    Raises:
        TypeError: ``scores`` not floating point, or ``mask`` not bool.
        ValueError: ``scores`` without a dimension, or a ``mask`` that does not broadcast to them.
    """
    if mask is None:
        check_arguments(scores, mask)
        return torch.softmax(scores, -1).to(scores.dtype)  # autocast returns float32 whatever the input was
    return over_live_entries(partial(torch.softmax, dim=-1), scores, mask)


@register("softmax")
class Softmax(Reweighting):
    """``softmax`` as a module; its loss is the cross-entropy."""

    positive = has_loss = True

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return softmax(scores, mask)

    def row_kernel(self) -> row_kernels.Softmax:
        return row_kernels.Softmax()

    def log_weights(self, scores: Tensor) -> Tensor:
        return scores
