"""MultiMax as a function and a module; its formula is in ``multimax.formulas.multimax``."""

from torch import Tensor

from multimax import kernels
from multimax.formulas import multimax as formulas
from multimax.formulas.multimax import Order, by_head, check_parameters, has_kernel, powers_of
from multimax.formulas.rows import along, compute_dtype
from multimax.kernels import blocked_multimax, operators, row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._modulators import Hinges, seglu
from multimax.reweight._registry import register


def multimax(
    scores: Tensor, ranges: Tensor, ts: Tensor, dim: int | None = None, *, mask: Tensor | None = None, order: Order = 2
) -> Tensor:
    """MultiMax over a dimension.

    Args:
        scores: floating point [..., n].
        ranges: r, [k], or [heads, k] for scores [..., heads, queries, keys] once ``dim`` has become the last; k = 2 for
            order 1 and "second_only", 4 for order 2, 6 for order 3; or always 2, shared by the orders.
        ts: t, [k] or [heads, k], likewise; k = 2 for order 1 and "second_only", 4 for order 2, 6 for order 3.
        dim: the dimension that is normalised; the last if None.
        mask: bool, broadcastable to ``scores``, True where an entry is live; None if all are.
        order: 1, 2 (first and second), 3 (those and the third, which has no kernel) or "second_only".

    Returns:
        Weights in the shape and dtype of ``scores``.

    Raises:
        TypeError: ``scores`` is not floating point, or ``mask`` is not bool.
        ValueError: an unknown ``order``; ``ranges`` or ``ts`` that do not fit it or the scores; no such dimension; a
            ``mask`` that does not broadcast to the scores.
    """
    return along(dim, lambda x, live: _multimax(x, ranges, ts, live, order), scores, mask)


def _multimax(scores: Tensor, ranges: Tensor, ts: Tensor, mask: Tensor | None, order: Order) -> Tensor:
    powers = check_parameters(ranges, ts, order, scores.device)
    ranges, ts = by_head(scores, ranges, ts, powers)
    if has_kernel(powers):
        if kernels.path(scores) != "eager":
            return operators.multimax(scores, mask, ranges, ts, powers)
        if kernels.can_be_blocked(scores):
            return blocked_multimax.multimax(scores, mask, ranges, ts, powers)
    return formulas.weigh(scores, ranges, ts, mask, powers)


@register("multimax")
class MultiMax(Hinges, Reweighting):
    __doc__ = f"""``multimax`` with learned parameters; its loss is the cross-entropy of the modulated scores.

    {Hinges.__doc__}"""

    has_loss = has_parameters = True
    can_be_zero = False

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return multimax(scores, *self._by_head(), mask=mask, order=self.order)

    def row_kernel(self) -> row_kernels.MultiMax | None:
        powers = powers_of(self.order)
        return row_kernels.MultiMax(*self._by_head(), powers) if has_kernel(powers) else None

    def modulate(self, scores: Tensor) -> Tensor:
        return seglu(scores, *self._by_head(), order=self.order)

    def log_weights(self, scores: Tensor) -> Tensor:
        return self.modulate(scores.to(compute_dtype(scores)))
