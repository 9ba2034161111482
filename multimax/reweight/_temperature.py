"""Softmax at a learned temperature, softmax(x e^u): the control for whether more than the scale of the scores matters.

It is a MultiMax of the first order whose two hinges meet at 0, with t = e^u - 1:

    x e^u = x - t relu(-x) + t relu(x)

There both have slope 0, so that the gradient of a score of exactly 0 is softmax's, without the factor e^u.
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
    """Softmax of the scores times e^u, with u, one number that starts at zero, learned; its loss is the cross-entropy.

    One set per layer, as MultiMax has it: all heads share u. The temperature is e^-u.
    """

    has_loss = has_parameters = True
    can_be_zero = False

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """Back to softmax itself."""
        nn.init.zeros_(self.u)

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return multimax(scores, *self._hinges(), mask=mask, order=1)

    def row_kernel(self) -> row_kernels.MultiMax:
        return row_kernels.MultiMax(*self._hinges(), powers=(1, 1))

    def _hinges(self) -> tuple[Tensor, Tensor]:
        t = self.u.expm1()
        return t.new_zeros(2), torch.cat([-t, t])

    def modulate(self, scores: Tensor) -> Tensor:
        return seglu(scores, *self._hinges(), order=1)

    def log_weights(self, scores: Tensor) -> Tensor:
        return self.modulate(scores.to(compute_dtype(scores)))
