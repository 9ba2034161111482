"""Sparsemax, 1.5-entmax and alpha-entmax as functions and modules; their formula is in ``multimax.formulas.entmax``."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from multimax import kernels
from multimax.formulas.entmax import weigh
from multimax.formulas.losses import check_loss_arguments, fenchel_young
from multimax.formulas.rows import (
    along,
    broadcasts,
    check_arguments,
    check_bool,
    check_count,
    check_floating,
    check_number,
    compute_dtype,
    over_live_entries,
    per_head,
)
from multimax.formulas.torch_private import is_readable
from multimax.kernels import operators, row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._registry import register
from multimax.reweight._softmax import softmax


def sparsemax(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """Euclidean projection of the scores onto the simplex: entmax at alpha = 2; the rest as for ``softmax``."""
    return entmax(scores, 2.0, dim, mask=mask)


def entmax15(scores: Tensor, dim: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """Entmax at alpha = 1.5; arguments, result and errors as for ``softmax``."""
    return entmax(scores, 1.5, dim, mask=mask)


def entmax(scores: Tensor, alpha: float | Tensor, dim: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """Alpha-entmax over a dimension; ``scores``, ``dim``, ``mask``, result and errors as for ``softmax``.

    Args:
        alpha: at least 1; 1 is softmax, 2 sparsemax. A number, or a floating-point tensor, which gets a gradient. The
            tensor has one element; or [heads], one per head of scores [..., heads, queries, keys] once ``dim`` has
            become the last; or two or more dimensions, with size 1 at ``dim``, that broadcast to ``scores``, such as
            [N, 1] for one per row of [N, n].

    Raises:
        TypeError: ``alpha`` is neither a number nor a floating-point tensor.
        ValueError: ``alpha`` is below 1, does not broadcast to ``scores`` or is on another device.

    The values of a tensor are read, so a GPU's host waits once. They cannot be read while a graph is traced; then a
    value outside [1, 2] gives NaN. ``Entmax`` keeps its alpha within bounds and reads nothing.
    """
    check_arguments(scores, mask, dim)
    if isinstance(alpha, Tensor) and alpha.dim() > 1 and dim not in (None, -1, scores.dim() - 1):
        alpha = alpha[(None,) * (scores.dim() - alpha.dim())].movedim(dim, -1)
    return along(dim, lambda x, live: _entmax(x, alpha, live), scores, mask)


def _entmax(scores: Tensor, alpha: float | Tensor, mask: Tensor | None, is_bounded: bool = False) -> Tensor:
    """``is_bounded``: an alpha in a tensor is known to be in [1, 2]."""
    by_kernel = kernels.path(scores) != "eager"
    if isinstance(alpha, Tensor):
        check_floating("alpha", alpha, scores.device)
        alpha = _aligned(alpha, scores).to(compute_dtype(scores))
        if by_kernel and (is_bounded or _is_between_1_and_2(alpha)):
            is_per_head = alpha.dim() > 2 and alpha.shape[-2] == alpha.shape[:-3].numel() == 1
            if alpha.dim() == 0 or is_per_head:
                return operators.entmax(scores, mask, alpha.reshape(-1))
            return _by_rows(scores, alpha, mask)
        if not is_bounded:
            check_alpha(alpha)
            alpha = alpha if is_readable(alpha) else alpha.where(alpha >= 1, math.nan)
    else:
        check_alpha(alpha)
        if alpha == 1:
            return softmax(scores, mask=mask)
        if by_kernel and alpha <= 2:
            return operators.entmax(scores, mask, float(alpha))
    return over_live_entries(lambda x: weigh(x, alpha), scores, mask)


def _by_rows(scores: Tensor, alpha: Tensor, mask: Tensor | None) -> Tensor:
    """By kernel, with an alpha per row: each row is passed as a head with one query."""
    rows = scores.shape[:-1].numel(), 1, scores.shape[-1]
    live = None if mask is None else mask.expand(scores.shape).reshape(rows)
    of_rows = alpha.expand(*scores.shape[:-1], 1).reshape(-1)
    return operators.entmax(scores.reshape(rows), live, of_rows).reshape(scores.shape)


def _is_between_1_and_2(alpha: Tensor) -> bool:
    return is_readable(alpha) and bool(((alpha >= 1) & (alpha <= 2)).all())


def _aligned(alpha: Tensor, scores: Tensor) -> Tensor:
    """``alpha`` as 0-d, or in a shape that broadcasts over the rows of ``scores``."""
    if alpha.numel() == 1 or alpha.dim() == 1:
        return per_head("alpha", alpha, scores)
    if not broadcasts(alpha.shape, (*scores.shape[:-1], 1)):
        raise ValueError(
            f"alpha of shape {tuple(alpha.shape)} does not broadcast to the rows of scores of shape "
            f"{tuple(scores.shape)}; its last dimension must be 1 and the others 1 or the scores'"
        )
    return alpha


def check_alpha(alpha: float | Tensor) -> None:
    """Raise for an alpha that is below 1 or not a number; a tensor's values are checked if they can be read."""
    if isinstance(alpha, Tensor):
        if not is_readable(alpha):
            return
        outside = ~((alpha >= 1) & (alpha < math.inf))
        if not outside.any():
            return
        alpha = alpha[outside][0].item()
    check_number("alpha", alpha, least=1)


class _EntmaxFamily(Reweighting):
    has_loss = True
    alpha: float | Tensor
    _is_bounded = False

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        check_arguments(scores, mask)
        return _entmax(scores, self.alpha, mask, self._is_bounded)

    def row_kernel(self) -> row_kernels.RowKernel | None:
        alpha = self.alpha
        if isinstance(alpha, float) and not 1 < alpha <= 2:
            return row_kernels.Softmax() if alpha == 1 else None
        return row_kernels.Entmax(alpha)

    def loss(
        self,
        scores: Tensor,
        targets: Tensor,
        *,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> Tensor:
        """Fenchel-Young loss; arguments as for ``Reweighting.loss``.

        It is zero exactly where the weights are the targets: unlike a cross-entropy it omits the targets' entropy.
        """
        options: Any = {"label_smoothing": label_smoothing, "reduction": reduction, "ignore_index": ignore_index}
        check_floating("scores", scores)
        check_loss_arguments(scores.shape, scores.device, targets, **options)
        scores = scores.to(compute_dtype(scores))
        alpha = self.alpha
        if isinstance(alpha, Tensor):
            alpha = per_head("alpha", alpha, scores).to(scores.dtype)
        weights = _entmax(scores, alpha, None, self._is_bounded)
        return fenchel_young(scores, weights, alpha, targets, **options)


@register("sparsemax")
class Sparsemax(_EntmaxFamily):
    """``sparsemax`` as a module; its loss is the Fenchel-Young loss at alpha = 2."""

    alpha = 2.0


@register("entmax15")
class Entmax15(_EntmaxFamily):
    """``entmax15`` as a module; its loss is the Fenchel-Young loss at alpha = 1.5."""

    alpha = 1.5


@register("entmax")
class Entmax(_EntmaxFamily):
    """``entmax`` as a module, with alpha learned or fixed; its loss is the Fenchel-Young loss at that alpha.

    A learned alpha is 1 + sigmoid(u) with u initially zero, so it starts at 1.5 and stays between 1 and 2.

    Args:
        alpha: None to learn it, or a number of at least 1.
        per_head: learn one alpha per head; otherwise one for all heads.
        num_heads: heads of the attention it serves; 1 takes scores of any shape.

    Raises:
        TypeError, ValueError: an option that does not fit, or ``alpha`` below 1.
    """

    has_parameters = True
    _is_bounded = True

    def __init__(self, alpha: float | None = None, per_head: bool = True, num_heads: int = 1) -> None:
        super().__init__()
        check_bool("per_head", per_head)
        check_count("num_heads", num_heads)
        if alpha is None:
            self.u = nn.Parameter(torch.empty(num_heads if per_head else 1))
        else:
            check_number("alpha", alpha, least=1)
        self._fixed_alpha = None if alpha is None else float(alpha)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set a learned alpha to 1.5."""
        if self._fixed_alpha is None:
            nn.init.zeros_(self.u)

    @property
    def alpha(self) -> float | Tensor:  # type: ignore[override]
        if self._fixed_alpha is not None:
            return self._fixed_alpha
        return 1 + torch.sigmoid(self.u.to(compute_dtype(self.u)))

    def extra_repr(self) -> str:
        return f"num_heads={self.u.numel()}" if self._fixed_alpha is None else f"alpha={self._fixed_alpha}"
