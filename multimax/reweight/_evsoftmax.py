"""Ev-softmax as a function and a module; its formula is in ``multimax.formulas.evsoftmax``."""

from torch import Tensor

from multimax import kernels
from multimax.formulas.evsoftmax import TRAINING_EPSILON, log_weights, weigh
from multimax.formulas.rows import along, check_number, compute_dtype, over_live_entries
from multimax.kernels import operators, row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._registry import register


def evsoftmax(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None, epsilon: float = 0.0) -> Tensor:
    """Ev-softmax over a dimension, relative to the mean of the live entries; the rest as for ``softmax``.

    Args:
        epsilon: factor of the entries below the mean; 0 makes them exactly zero.

    Raises:
        TypeError: ``epsilon`` is not a number.
        ValueError: ``epsilon`` is below 0.
    """
    check_number("epsilon", epsilon, least=0)

    def of_rows(scores: Tensor, mask: Tensor | None) -> Tensor:
        if kernels.path(scores) == "eager":
            return over_live_entries(lambda x: weigh(x, epsilon), scores, mask)
        return operators.evsoftmax(scores, mask, epsilon)

    return along(dim, of_rows, scores, mask)


@register("evsoftmax")
class EvSoftmax(Reweighting):
    """``evsoftmax`` as a module. Its loss is the negative log-likelihood, at the paper's epsilon, 1e-6, if none is set.

    Args:
        epsilon: as for ``evsoftmax``.
    """

    has_loss = True
    needs_length = True  # for the mean

    def __init__(self, epsilon: float = 0.0) -> None:
        super().__init__()
        check_number("epsilon", epsilon, least=0)
        self.epsilon = epsilon

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon}"

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return evsoftmax(scores, mask=mask, epsilon=self.epsilon)

    def row_kernel(self) -> row_kernels.EvSoftmax:
        return row_kernels.EvSoftmax(self.epsilon)

    def log_weights(self, scores: Tensor) -> Tensor:
        return log_weights(scores.to(compute_dtype(scores)), self.epsilon or TRAINING_EPSILON)
