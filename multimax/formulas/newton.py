"""Newton's method on one equation per row, from the side on which no step overshoots."""

from collections.abc import Callable

import torch
from torch import Tensor

from multimax.formulas.torch_private import is_readable

# Up to 14 were seen, in float64, on rows built to need many and on normal ones with up to 100,000 entries.
MAX_STEPS = 20


def descend(step: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where ``step``, from a number per row to the next, comes down to from ``start``."""
    a = start
    for _ in range(MAX_STEPS):
        following = torch.fmin(step(a), a)  # rounding must not start a walk around the root, nor NaN hold up others
        if is_readable(following) and torch.equal(following, a):
            break
        a = following
    return a


def root(step: Callable[[Tensor, Tensor], Tensor], x: Tensor, start: Tensor) -> Tensor:
    """The root that ``step(x, a)`` comes down to from ``start``.

    As a function of ``x`` it has the derivatives of two Newton steps at the root, of which the error is of the fourth
    order: right to the third.
    """
    constant = x.detach()
    a = descend(lambda a: step(constant, a), start)
    return step(x, step(x, a))
