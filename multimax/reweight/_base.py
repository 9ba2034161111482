"""The base class of all reweighting modules: the default loss, and the fast paths that a subclass may bring."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeGuard
from weakref import WeakSet

import torch
from torch import Tensor, nn

from multimax.formulas.losses import check_loss_arguments, cross_entropy
from multimax.formulas.rows import check_floating, compute_dtype
from multimax.formulas.torch_private import is_exporting, is_hooked
from multimax.kernels.row_kernels import RowKernel

# A parameter does not know its module, and attributes set on it are lost when it is copied, loaded or moved.
_LIVING: "WeakSet[Reweighting]" = WeakSet()


def living() -> "list[Reweighting]":
    """All reweightings in this process, including copies and unpickled ones."""
    return list(_LIVING)


class Reweighting(nn.Module):
    """A function from scores to weights on the probability simplex, along the last dimension.

    A subclass defines ``forward`` and keeps this package's contract. The attributes belong to the class, so that a
    configuration that asks for what a function cannot do is refused before anything is built.

    A subclass may also bring fast paths for attention and for the loss of an output layer: ``row_kernel``, or, where no
    row kernel exists or is fast enough, ``attention_backends`` and ``linear_loss``. docs/kernel.md has an example of
    each.

    A fast path replaces the methods of the class that defines it. If ``forward`` is overridden in a subclass or
    replaced on the instance, or a hook is registered, the module itself is called (``may_bypass``).

    Attributes:
        sums_to_one, can_be_zero, needs_length, has_parameters: see ``multimax.reweight.Traits``.
        has_loss: whether ``loss`` exists. Set it if the weights are positive and sum to one, which is all the default
            loss needs, or if the subclass has its own loss.
        soft_targets: whether ``loss`` takes label smoothing and rows of probabilities as targets.
    """

    sums_to_one: bool = True
    can_be_zero: bool = True
    needs_length: bool = False
    has_parameters: bool = False
    has_loss: bool = False
    soft_targets: bool = True

    attention_backends: ClassVar[tuple[Any, ...]] = ()
    """Its own ways to compute attention, each a ``multimax.attention_backends.Backend``, tried before all others.

    They are tried in every mode of ``multimax.kernels``; one that should stay out of "eager" checks that in ``pays``.
    """

    def __init__(self) -> None:  # no *args as in nn.Module: the options of a subclass are read from its signature
        super().__init__()
        _LIVING.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _LIVING.add(self)

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights of ``scores``, in their shape and dtype.

        Args:
            scores: floating point [..., n]; dead entries may hold anything.
            mask: bool, broadcastable to ``scores``, True where an entry is live; None if all are.
        """
        raise NotImplementedError

    def modulate(self, scores: Tensor) -> Tensor:
        """The scores just before they are normalised, in the order of the weights.

        This is the identity unless the function bends its scores first. A classifier's arg-max and top-k are those of
        its modulated logits, not of the raw ones.
        """
        return scores

    def log_weights(self, scores: Tensor) -> Tensor:
        """Logarithm of the weights of ``scores`` [N, C], up to a constant per row; the default loss uses it."""
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
        """Training loss of a classifier normalised by this function; by default the negative log-likelihood.

        Arguments and averaging are those of ``torch.nn.functional.cross_entropy``; for half precision the loss is
        computed and returned in float32.

        Args:
            scores: [N, C].
            targets: class indices int64 [N], or probabilities in floating point [N, C].
            label_smoothing: share of the targets' mass that is spread evenly over the classes.
            reduction: "mean", "sum" or "none" ([N]).
            ignore_index: class index of rows that are left out of the sum and the mean.

        Raises:
            NotImplementedError: the function has no loss (``has_loss`` is False).
        """
        if not self.has_loss:
            raise NotImplementedError(
                f"{type(self).__name__} has no loss, since its weights {self.why_no_loss()}; override loss, or set "
                "has_loss = True if they are positive and sum to one"
            )
        options: Any = {"label_smoothing": label_smoothing, "reduction": reduction, "ignore_index": ignore_index}
        check_floating("scores", scores)
        check_loss_arguments(scores.shape, scores.device, targets, **options)
        return cross_entropy(self.log_weights(scores), targets, **options)

    @classmethod
    def why_no_loss(cls) -> str:
        """The end of a sentence that begins "it has no loss, since its weights"."""
        return "can be exactly zero" if cls.sums_to_one else "do not sum to one"

    def row_kernel(self) -> RowKernel | None:
        """The row kernel (``multimax.kernels.row_kernels``) that computes exactly what ``forward`` does, or None.

        This is called for every attention, so that gradients reach the parameters through the kernel's tensors. If the
        kernel is softmax's or MultiMax's and ``loss`` is the default, ``multimax.linear_cross_entropy`` computes that
        loss without the scores.
        """
        return None

    def linear_loss(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, **options: Any
    ) -> Tensor | None:
        """``loss`` of the scores hidden [N, dim] @ weight [V, dim]^T + bias [V], without computing them, or None.

        ``options`` are those of ``loss``, all of them.
        """
        return None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._stands_for = {
            name: cls._stands_for[name] if fast_path is getattr(cls, name) else (getattr(cls, name), _methods(cls))
            for name, (fast_path, _) in cls._stands_for.items()
        }

    _stands_for: ClassVar[dict[str, tuple[object, dict[str, object]]]]


IN_ATTENTION = ("__call__", "forward")
IN_LOSS = (*IN_ATTENTION, "modulate", "log_weights", "loss")


def _methods(cls: type) -> dict[str, object]:
    return {name: getattr(cls, name) for name in IN_LOSS}


# Each fast path with the methods that it replaces, as the class that defines it has them.
Reweighting._stands_for = {
    name: (getattr(Reweighting, name), _methods(Reweighting))
    for name in ("row_kernel", "attention_backends", "linear_loss")
}


def may_bypass(
    reweight: Callable[..., Tensor], fast_path: str, methods: tuple[str, ...] = IN_ATTENTION
) -> TypeGuard[Reweighting]:
    """Whether ``fast_path`` does everything that calling the module's ``methods`` would do.

    It does not if a method is overridden below the class that brings the fast path, or replaced on the instance or
    class, or if any hook is registered. A plain function has no fast path.
    """
    if not isinstance(reweight, Reweighting):
        return False
    cls = type(reweight)
    meant = cls._stands_for[fast_path][1]
    if is_exporting():
        methods = tuple(name for name in methods if getattr(cls, name) is not nn.Module.__call__)  # which it replaces
    return not is_hooked(reweight) and all(
        getattr(cls, name) is meant[name] and name not in reweight.__dict__ for name in methods
    )
