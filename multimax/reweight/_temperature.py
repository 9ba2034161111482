"""Softmax at a learned temperature, softmax(x e^u): a control for functions that may only rescale the scores.

It is a MultiMax of the first order whose two hinges meet at 0, with t = e^u - 1:

    x e^u = x - t relu(-x) + t relu(x)

At 0 both hinges have slope 0, so the gradient of a score of exactly 0 lacks the factor e^u.
"""

import torch
from torch import Tensor, nn

from multimax.formulas.rows import compute_dtype
from multimax.kernels import row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._multimax import multimax, seglu
from multimax.reweight._registry import register


@register("temperature")
class Temperature(Reweighting):
    """Softmax of the scores times e^u, with one learned number u, initially zero; its loss is the cross-entropy.

    As in MultiMax, all heads of a layer share u. The temperature is e^-u.
    """

    has_loss = has_parameters = True
    can_be_zero = False

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """Set u to zero, which is softmax itself."""
        nn.init.zeros_(self.u)

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return multimax(scores, *self._hinges(), mask=mask, order=1)

    def row_kernel(self) -> row_kernels.MultiMax:
        return row_kernels.MultiMax(*self._hinges(), powers=(1, 1))

    def _hinges(self) -> tuple[Tensor, Tensor]:
        t = self.u.to(compute_dtype(self.u)).expm1()
        return t.new_zeros(2), torch.cat([-t, t])

    def modulate(self, scores: Tensor) -> Tensor:
        return seglu(scores, *self._hinges(), order=1)

    def log_weights(self, scores: Tensor) -> Tensor:
        return self.modulate(scores.to(compute_dtype(scores)))
