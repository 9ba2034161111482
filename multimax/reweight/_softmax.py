"""Softmax, p_i = exp(x_i) / sum_j exp(x_j): PyTorch's own, with the mask as an argument."""

from functools import partial

import torch
from torch import Tensor

from multimax.formulas.rows import along, check_arguments, over_live_entries
from multimax.formulas.softmax import weigh
from multimax.kernels import row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._registry import register


def softmax(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """Softmax over a dimension; without a mask it is ``torch.softmax`` bit for bit.

    Args:
        scores: floating point [..., n].
        dim: the dimension that is normalised; the last if None.
        mask: bool, broadcastable to ``scores``, True where an entry is live; None if all are.

    Returns:
        Weights in the shape and dtype of ``scores``.

    Raises:
        TypeError: ``scores`` is not floating point, or ``mask`` is not bool.
        ValueError: no such dimension, or a ``mask`` that does not broadcast to ``scores`` or is on another device.
    """
    if mask is None:
        check_arguments(scores, mask, dim)
        weights = torch.softmax(scores, -1 if dim is None else dim)
        return weights.to(scores.dtype)  # autocast returns float32 for any input
    return along(dim, partial(over_live_entries, weigh), scores, mask)


@register("softmax")
class Softmax(Reweighting):
    """``softmax`` as a module; its loss is the cross-entropy."""

    has_loss, can_be_zero = True, False

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return softmax(scores, mask=mask)

    def row_kernel(self) -> row_kernels.Softmax:
        return row_kernels.Softmax()

    def log_weights(self, scores: Tensor) -> Tensor:
        return scores
