"""Newton's method for one equation per row, from the side on which no step overshoots."""

from collections.abc import Callable

import torch
from torch import Tensor

from multimax.formulas.torch_private import is_readable

# Up to 14 were needed in float64, by adversarial rows and by normal ones with up to 100,000 entries.
MAX_STEPS = 20


def descend(step: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The limit of ``step``, which maps a number per row to a lower one, from ``start``."""
    a = start
    for _ in range(MAX_STEPS):
        following = torch.fmin(step(a), a)  # or rounding might oscillate, and NaN never end
        if is_readable(following) and torch.equal(following, a):
            break
        a = following
    return a


def root(step: Callable[[Tensor, Tensor], Tensor], x: Tensor, start: Tensor) -> Tensor:
    """The limit of ``a -> step(x, a)`` from ``start``, which is the root that Newton's method finds.

    As a function of ``x`` it has the derivatives of two Newton steps at the root, whose error is of the fourth order,
    so that they are right up to the third.
    """
    constant = x.detach()
    a = descend(lambda a: step(constant, a), start)
    return step(x, step(x, a))
