"""Sparsemax, entmax at any alpha, normmax, and sparsemax with a budget, under the names of ``entmax.root_finding``.

The last, as in Blondel, Martins, Niculae, "Learning with Fenchel-Young losses", JMLR 21 (2020), arXiv 1901.02324, is

    p_i = min(1, relu(x_i - tau)),      tau such that sum_i p_i = budget.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from multimax import reweight
from multimax.compat.entmax.activations import FunctionModule, check_scores
from multimax.formulas.entmax import weigh as weigh_by_entmax
from multimax.formulas.rows import (
    DTYPES,
    along,
    broadcasts,
    check_dense,
    check_number,
    compute_dtype,
    over_live_entries,
)
from multimax.formulas.torch_private import is_readable
from multimax.reweight._normmax import weigh as weigh_by_normmax

MAX_STEPS = 50  # 14 were seen, with rows of up to 100,000 entries


def sparsemax_bisect(X: Tensor, dim: int = -1, n_iter: int | None = 50, ensure_sum_one: bool = True) -> Tensor:
    """``multimax.reweight.sparsemax`` of scores along ``dim``; ``n_iter`` and ``ensure_sum_one`` have no effect."""
    check_scores(X, dim)
    return reweight.sparsemax(X, dim)


def entmax_bisect(
    X: Tensor, alpha: float | Tensor = 1.5, dim: int = -1, n_iter: int = 50, ensure_sum_one: bool = True
) -> Tensor:
    """Alpha-entmax of scores along ``dim``, in their shape and dtype; the last two arguments have no effect.

    Args:
        alpha: a finite number, or a tensor that expands to the shape of ``X`` with 1 at ``dim``, which gets a gradient.
            Below 1 no weight is zero. A tensor's values are read, so a GPU's host waits.

    Raises:
        TypeError, ValueError: as for ``multimax.reweight.entmax``, but alpha may be below 1.
    """
    alpha = per_row("alpha", alpha, X, dim)
    if (is_readable(alpha) and bool((alpha >= 1).all())) if isinstance(alpha, Tensor) else alpha >= 1:
        return reweight.entmax(X, alpha, dim)
    return _of_rows(weigh_by_entmax, X, alpha, dim)


def normmax_bisect(X: Tensor, alpha: float | Tensor = 2, dim: int = -1, n_iter: int = 50) -> Tensor:
    """``multimax.reweight.normmax`` of scores along ``dim``; ``n_iter`` has no effect.

    Args:
        alpha: above 1: a number, or a tensor as for ``entmax_bisect``, which gets no gradient.

    Raises:
        TypeError, ValueError: an argument that does not fit, or an ``alpha`` that is not above 1.
    """
    alpha = per_row("alpha", alpha, X, dim)
    if not isinstance(alpha, Tensor):
        return reweight.normmax(X, dim, alpha=alpha)
    if is_readable(alpha) and not bool((alpha > 1).all()):
        raise ValueError(f"alpha must be above 1, got {alpha.min().item():g}")
    return _of_rows(weigh_by_normmax, X, alpha.detach(), dim)


def budget_bisect(X: Tensor, budget: float | Tensor = 2, dim: int = -1, n_iter: int = 50) -> Tensor:
    """The weights from 0 to 1 along ``dim`` that sum to ``budget`` and are nearest to the scores.

    Args:
        budget: from 0 to the number of entries: a number, or a tensor that expands to the shape of ``X`` with 1 at
            ``dim``, which gets a gradient.
        n_iter: has no effect.

    Raises:
        TypeError, ValueError: an argument that does not fit, or a negative ``budget``.
    """
    return _of_rows(_weigh_by_budget, X, per_row("budget", budget, X, dim), dim)


def per_row(name: str, number: float | Tensor, X: Tensor, dim: int) -> float | Tensor:
    """A float, or a tensor in the compute dtype, [] or with as many dimensions as ``X`` and size 1 at ``dim``."""
    check_scores(X, dim)
    if not isinstance(number, Tensor):
        check_number(name, number)
        return float(number)
    check_dense(name, number)
    if number.dtype not in (*DTYPES, torch.int64, torch.int32):
        raise TypeError(f"{name} must be a number or a tensor of numbers, got {number.dtype}; convert with .float()")
    shape = list(X.shape)
    shape[dim] = 1
    if not broadcasts(number.shape, shape):
        raise ValueError(f"{name} of shape {tuple(number.shape)} does not expand to {tuple(shape)}, X's with 1 at dim")
    if number.is_meta and not X.is_meta:
        raise ValueError(f"{name} must be on {X.device}, where X is, got meta")
    number = number.to(X.device, compute_dtype(X))
    return number.reshape(()) if number.numel() == 1 else number[(None,) * (X.dim() - number.dim())]


def _of_rows(weigh: Callable[[Tensor, float | Tensor], Tensor], X: Tensor, number: float | Tensor, dim: int) -> Tensor:
    if isinstance(number, Tensor) and number.dim():
        number = number.movedim(dim, -1)
    return along(dim, lambda x, _: over_live_entries(lambda rows: weigh(rows, number), x, None), X, None)


def _weigh_by_budget(x: Tensor, budget: float | Tensor) -> Tensor:
    """Newton's method, or halving if a step would leave tau's interval; dead entries are -inf."""
    z = x.detach()
    wanted = budget.detach() if isinstance(budget, Tensor) else budget
    live = z > -math.inf
    least, most = z.where(live, math.inf).amin(-1, keepdim=True) - 1, z.amax(-1, keepdim=True)
    low, high, tau = least, most, (least + most) / 2
    for _ in range(MAX_STEPS):
        p = (z - tau).clamp_(0, 1)
        excess = p.sum(-1, keepdim=True) - wanted
        low, high = tau.where(excess >= 0, low), high.where(excess >= 0, tau)
        between = (p - p * p).sign_().sum(-1, keepdim=True)  # counts them, much faster than a comparison
        following = tau + excess / between  # infinite or NaN if there are none
        following = following.where(excess != 0, tau)
        is_inside = (following == tau) | ((following > low) & (following < high))
        following = following.where(is_inside, (low + high) / 2)
        if is_readable(tau) and torch.equal(following, tau):
            break
        tau = following
    tau = tau.where(live.sum(-1, keepdim=True) > wanted, least)
    full, between = z - tau >= 1, (z > tau) & (z - tau < 1)
    count = between.sum(-1, keepdim=True)
    # tau from the entries between 0 and 1, the only ones with a gradient
    total = x.where(between, 0).sum(-1, keepdim=True) + full.sum(-1, keepdim=True)
    tau = ((total - budget) / count.clamp(min=1)).where(count > 0, tau)
    return (x - tau).clamp(0, 1).where(between, full.to(x.dtype))


class SparsemaxBisect(FunctionModule):
    """``sparsemax_bisect`` as a module."""

    def __init__(self, dim: int = -1, n_iter: int | None = None) -> None:
        super().__init__(sparsemax_bisect, dim=dim, n_iter=n_iter)


class EntmaxBisect(FunctionModule):
    """``entmax_bisect`` as a module; an ``alpha`` that is a Parameter is the module's."""

    def __init__(self, alpha: float | Tensor = 1.5, dim: int = -1, n_iter: int = 50) -> None:
        super().__init__(entmax_bisect, alpha=alpha, dim=dim, n_iter=n_iter)


class NormmaxBisect(FunctionModule):
    """``normmax_bisect`` as a module."""

    def __init__(self, alpha: float | Tensor = 2, dim: int = -1, n_iter: int = 50) -> None:
        super().__init__(normmax_bisect, alpha=alpha, dim=dim, n_iter=n_iter)


class BudgetBisect(FunctionModule):
    """``budget_bisect`` as a module."""

    def __init__(self, budget: float | Tensor = 2, dim: int = -1, n_iter: int = 50) -> None:
        super().__init__(budget_bisect, budget=budget, dim=dim, n_iter=n_iter)
