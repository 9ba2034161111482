"""Any function behind a modulator: weights = normaliser(modulator(scores))."""

from typing import Any

from torch import Tensor

from multimax.formulas.rows import check_arguments, check_floating, compute_dtype
from multimax.reweight._base import Reweighting
from multimax.reweight._modulators import Modulator


class Modulated(Reweighting):
    """``normaliser`` applied to the output of ``modulator``; the loss is the normaliser's, of the modulated scores.

    Its traits are the normaliser's, and it has parameters if either does. It has no fast path; for softmax behind
    SegLU, ``create("softmax", modulator="seglu")`` returns ``MultiMax``, which has one.

    Raises:
        TypeError: ``normaliser`` is not a ``Reweighting``, or ``modulator`` not a ``Modulator``.
    """

    def __init__(self, normaliser: Reweighting, modulator: Modulator) -> None:
        super().__init__()
        for name, part, kind in (("normaliser", normaliser, Reweighting), ("modulator", modulator, Modulator)):
            if not isinstance(part, kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {type(part).__name__}")
        self.normaliser = normaliser
        self.modulator = modulator
        for trait in ("sums_to_one", "can_be_zero", "needs_length", "has_loss", "soft_targets"):
            setattr(self, trait, getattr(normaliser, trait))
        self.has_parameters = normaliser.has_parameters or modulator.has_parameters

    def reset_parameters(self) -> None:
        """Set the parameters of both to their initial values."""
        for part in (self.normaliser, self.modulator):
            if part.has_parameters:
                part.reset_parameters()  # type: ignore[operator]

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        check_arguments(scores, mask)
        x = scores.to(compute_dtype(scores))
        if mask is not None:
            x = x.where(mask, 0)  # else dead entries would reach the gradients of the modulator's parameters
        return self.normaliser(self.modulator(x), mask).to(scores.dtype)

    def modulate(self, scores: Tensor) -> Tensor:
        return self.normaliser.modulate(self.modulator(scores))

    def log_weights(self, scores: Tensor) -> Tensor:
        return self.normaliser.log_weights(self.modulator(scores.to(compute_dtype(scores))))

    def loss(self, scores: Tensor, targets: Tensor, **options: Any) -> Tensor:
        check_floating("scores", scores)
        return self.normaliser.loss(self.modulator(scores.to(compute_dtype(scores))), targets, **options)
