"""Newton's method for one equation per row, from the side where no step overshoots."""

from collections.abc import Callable

import torch
from torch import Tensor

from multimax.formulas.torch_private import is_readable

# Adversarial rows, and normal ones with up to 100,000 entries, needed up to 14 in float64.
MAX_STEPS = 20


def descend(step: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The limit of ``step``, which maps one number per row to a lower one, from ``start``."""
    a = start
    for _ in range(MAX_STEPS):
        following = torch.fmin(step(a), a)  # else rounding might oscillate, and NaN never end
        if is_readable(following) and torch.equal(following, a):
            break
        a = following
    return a


def root(step: Callable[[Tensor, Tensor], Tensor], x: Tensor, start: Tensor) -> Tensor:
    """The limit of ``a -> step(x, a)`` from ``start``, that is, the root that Newton's method finds.

    As a function of ``x`` it has the derivatives of two Newton steps at the root. Their error is of fourth order, so
    derivatives are right up to the third.
    """
    constant = x.detach()
    a = descend(lambda a: step(constant, a), start)
    return step(x, step(x, a))
