"""Fenchel-Young losses under the names of ``entmax.losses``; their formula is in ``multimax.formulas.losses``.

The functions return losses [N] for scores X [N, C] and class indices int64 [N], in float32 for half precision; the
modules sum or average them over the rows whose target is not ``ignore_index``.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from multimax.compat.entmax.activations import FunctionModule
from multimax.compat.entmax.root_finding import entmax_bisect, normmax_bisect, per_row
from multimax.formulas.losses import check_loss_arguments, fenchel_young_of_rows
from multimax.formulas.rows import check_dense, check_floating, compute_dtype

REDUCTIONS = ("elementwise_mean", "sum", "none")


def sparsemax_loss(X: Tensor, target: Tensor, k: int | None = None) -> Tensor:
    """Losses [N] at alpha = 2; ``k`` has no effect.

    Raises:
        TypeError, ValueError: ``X`` is not floating point [N, C], or ``target`` is not class indices int64 [N].
    """
    return entmax_bisect_loss(X, target, 2.0)


def entmax15_loss(X: Tensor, target: Tensor, k: int | None = None) -> Tensor:
    """Losses [N] at alpha = 1.5; arguments and errors as for ``sparsemax_loss``."""
    return entmax_bisect_loss(X, target, 1.5)


def sparsemax_bisect_loss(X: Tensor, target: Tensor, n_iter: int = 50) -> Tensor:
    """The same as ``sparsemax_loss``; ``n_iter`` has no effect."""
    return entmax_bisect_loss(X, target, 2.0)


def entmax_bisect_loss(X: Tensor, target: Tensor, alpha: float | Tensor = 1.5, n_iter: int = 50) -> Tensor:
    """Losses [N] at ``alpha``, a number or a tensor [], [1] or [N, 1], which gets a gradient; not 0.

    ``n_iter`` has no effect; errors as for ``sparsemax_loss``.
    """
    return _losses(X, target, alpha, entmax_bisect)


def normmax_bisect_loss(X: Tensor, target: Tensor, alpha: float | Tensor = 2, n_iter: int = 50) -> Tensor:
    """Losses [N] of normmax at ``alpha`` above 1, a number or a tensor [], [1] or [N, 1], which gets no gradient.

    ``n_iter`` has no effect; errors as for ``sparsemax_loss``.
    """
    alpha = alpha.detach() if isinstance(alpha, Tensor) else alpha
    return _losses(X, target, alpha, normmax_bisect)


def _losses(
    X: Tensor, target: Tensor, alpha: float | Tensor, weigh: Callable[[Tensor, float | Tensor], Tensor]
) -> Tensor:
    check_floating("X", X)
    if X.dim() != 2:
        raise ValueError(f"X must be [N, C], got {tuple(X.shape)}")
    check_loss_arguments(X.shape, X.device, target, 0.0, "none", -100)
    if target.is_floating_point():
        raise TypeError("target must be class indices, int64 [N]; the losses of multimax.reweight take probabilities")
    X = X.to(compute_dtype(X))
    alpha = per_row("alpha", alpha, X, -1)
    return fenchel_young_of_rows(X, weigh(X, alpha), target, alpha, weigh is normmax_bisect)


class _Loss(FunctionModule):
    """Args:
        ignore_index: class index of rows that are left out of the sum and the mean.
        reduction: "elementwise_mean", "sum" or "none" ([N]).

    Raises:
        TypeError, ValueError: there is no such reduction, or ``ignore_index`` is not an int.
    """

    def __init__(self, loss: Callable[..., Tensor], ignore_index: int, reduction: str, **options: Any) -> None:
        if not isinstance(reduction, str) or reduction not in REDUCTIONS:
            got = repr(reduction) if isinstance(reduction, str) else type(reduction).__name__
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {got}")
        if isinstance(ignore_index, Tensor) and ignore_index.dim() == 0 and not ignore_index.is_meta:
            ignore_index = ignore_index.item()
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise TypeError(f"ignore_index must be an int, got {type(ignore_index).__name__}")
        super().__init__(loss, **options)
        self.ignore_index = ignore_index
        self.reduction = reduction

    def loss(self, X: Tensor, target: Tensor) -> Tensor:
        """The loss of each row, [N]."""
        return super().forward(X, target)

    def forward(self, X: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        check_dense("target", target)
        counted = target != self.ignore_index
        losses = self.loss(X, target.where(counted, 0)).where(counted, 0)
        if self.reduction == "none":
            return losses
        return losses.sum() if self.reduction == "sum" else losses.sum() / counted.sum()


class SparsemaxLoss(_Loss):
    """``sparsemax_loss`` as a module."""

    def __init__(self, k: int | None = None, ignore_index: int = -100, reduction: str = "elementwise_mean") -> None:
        super().__init__(sparsemax_loss, ignore_index, reduction, k=k)


class Entmax15Loss(_Loss):
    """``entmax15_loss`` as a module."""

    def __init__(self, k: int | None = 100, ignore_index: int = -100, reduction: str = "elementwise_mean") -> None:
        super().__init__(entmax15_loss, ignore_index, reduction, k=k)


class SparsemaxBisectLoss(_Loss):
    """``sparsemax_bisect_loss`` as a module."""

    def __init__(self, n_iter: int = 50, ignore_index: int = -100, reduction: str = "elementwise_mean") -> None:
        super().__init__(sparsemax_bisect_loss, ignore_index, reduction, n_iter=n_iter)


class EntmaxBisectLoss(_Loss):
    """``entmax_bisect_loss`` as a module; an ``alpha`` that is a Parameter is the module's."""

    def __init__(
        self,
        alpha: float | Tensor = 1.5,
        n_iter: int = 50,
        ignore_index: int = -100,
        reduction: str = "elementwise_mean",
    ) -> None:
        super().__init__(entmax_bisect_loss, ignore_index, reduction, alpha=alpha, n_iter=n_iter)


class NormmaxBisectLoss(_Loss):
    """``normmax_bisect_loss`` as a module."""

    def __init__(
        self, alpha: float | Tensor = 2, n_iter: int = 50, ignore_index: int = -100, reduction: str = "elementwise_mean"
    ) -> None:
        super().__init__(normmax_bisect_loss, ignore_index, reduction, alpha=alpha, n_iter=n_iter)
