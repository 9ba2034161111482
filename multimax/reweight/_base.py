"""What every reweighting module is, and the loss it has by default."""

import torch
from torch import Tensor, nn

from multimax.reweight._losses import cross_entropy
from multimax.reweight._rows import compute_dtype


class Reweighting(nn.Module):
    """A function from scores to weights on the probability simplex, along the last dimension.

    A subclass defines ``forward`` and keeps the contract of this package. The attributes belong to the class, so that
    a configuration that asks for what a function cannot do is refused before anything is built.

    Attributes:
        positive: whether every live weight is above zero. Then, and only then, ``reweight=NAME`` means a classifier's
            output as well as its attention.
        has_loss: whether ``loss`` exists. To be set where the weights are positive, which is all that the default loss
            asks for, or where the subclass brings a loss of its own.
        soft_targets: whether ``loss`` takes rows of probabilities as targets, and label smoothing.
    """

    positive: bool = False
    has_loss: bool = False
    soft_targets: bool = True

    def __init__(self) -> None:  # without nn.Module's *args: the options of a subclass are read from its signature
        super().__init__()

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights of ``scores``, in their shape and dtype.

        Args:
            scores: floating point [..., n]; what dead entries hold does not matter.
            mask: bool, broadcastable to ``scores``, True where an entry is live; None: all are.
        """
        raise NotImplementedError

    def modulate(self, scores: Tensor) -> Tensor:
        """The scores as they are just before they are normalised; the weights are in the same order as these.

        The identity, except where a function bends its scores first. The arg-max and the top-k of a classifier are
        those of its modulated logits, not of the logits.
        """
        return scores

    def log_weights(self, scores: Tensor) -> Tensor:
        """Logarithm of the weights of ``scores`` [N, C], up to a constant per row; the default loss is made of it."""
        weights = self(scores.to(compute_dtype(scores)))
        return weights.clamp(min=torch.finfo(weights.dtype).tiny).log()

    def loss(
        self,
        scores: Tensor,
        targets: Tensor,
        *,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> Tensor:
        """Training loss for a classifier whose outputs this function normalises; here the negative log-likelihood.

        Arguments and averaging are those of ``torch.nn.functional.cross_entropy``; half precision is computed, and
        returned, in float32.

        Args:
            scores: [N, C].
            targets: class indices int64 [N], or probabilities in floating point [N, C].
            label_smoothing: share of the targets' mass that is spread evenly over the classes.
            reduction: "mean", "sum" or "none" ([N]).
            ignore_index: class index whose rows count neither in the sum nor in the mean.

        Raises:
            NotImplementedError: the function has no loss (``has_loss`` is False).
        """
        if not self.has_loss:
            raise NotImplementedError(
                f"{type(self).__name__} has no loss; set has_loss = True if its weights are positive, or override loss"
            )
        return cross_entropy(
            self.log_weights(scores),
            targets,
            label_smoothing=label_smoothing,
            reduction=reduction,
            ignore_index=ignore_index,
        )
