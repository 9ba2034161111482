"""Roots of one equation per row, found by Newton's method and differentiated through its last steps."""

from collections.abc import Callable

import torch
from torch import Tensor

from multimax.formulas import entmax
from multimax.formulas.torch_private import is_readable


def root(step: Callable[[Tensor, Tensor], Tensor], x: Tensor, start: Tensor) -> Tensor:
    """The root that ``step(x, a)``, from a number per row to the next, comes down to from ``start``.

    As a function of ``x`` it has the derivatives of two Newton steps at the root, of which the error is of the fourth
    order: right to the third.
    """
    constant, a = x.detach(), start
    for _ in range(entmax.MAX_STEPS):
        following = torch.minimum(step(constant, a), a)  # rounding must not start a walk around the root
        if is_readable(following) and torch.equal(following, a):
            break
        a = following
    return step(x, step(x, a))
