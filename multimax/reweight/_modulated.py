"""Any function behind a modulator: weights = normaliser(modulator(scores))."""

from torch import Tensor

from multimax.formulas.losses import check_loss_arguments
from multimax.formulas.rows import check_arguments, check_floating, compute_dtype
from multimax.reweight._base import Reweighting
from multimax.reweight._modulators import Modulator


class Modulated(Reweighting):
    """``normaliser`` of what ``modulator`` makes of the scores; its loss is the normaliser's, of those.

    Its traits are the normaliser's, and it has parameters where either has. It has no fast path: softmax behind SegLU
    has in ``MultiMax``, which ``create("softmax", modulator="seglu")`` is.
    """

    def __init__(self, normaliser: Reweighting, modulator: Modulator) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.modulator = modulator
        for trait in ("sums_to_one", "can_be_zero", "needs_length", "has_loss", "soft_targets"):
            setattr(self, trait, getattr(normaliser, trait))
        self.has_parameters = normaliser.has_parameters or modulator.has_parameters

    def reset_parameters(self) -> None:
        """Those of both, as they were at the start."""
        for part in (self.normaliser, self.modulator):
            if part.has_parameters:
                part.reset_parameters()  # type: ignore[operator]

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        check_arguments(scores, mask)
        x = scores.to(compute_dtype(scores))
        if mask is not None:
            x = x.where(mask, 0)  # whatever is there must not reach the gradients of the modulator's parameters
        return self.normaliser(self.modulator(x), mask).to(scores.dtype)

    def modulate(self, scores: Tensor) -> Tensor:
        return self.normaliser.modulate(self.modulator(scores))

    def log_weights(self, scores: Tensor) -> Tensor:
        return self.normaliser.log_weights(self.modulator(scores.to(compute_dtype(scores))))

    def loss(
        self,
        scores: Tensor,
        targets: Tensor,
        *,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> Tensor:
        check_floating("scores", scores)
        check_loss_arguments(scores.shape, scores.device, targets, label_smoothing, reduction, ignore_index)
        return self.normaliser.loss(
            self.modulator(scores.to(compute_dtype(scores))),
            targets,
            label_smoothing=label_smoothing,
            reduction=reduction,
            ignore_index=ignore_index,
        )
