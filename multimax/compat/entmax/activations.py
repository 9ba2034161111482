"""Sparsemax and 1.5-entmax under the names of ``entmax.activations``."""

from torch import Tensor, nn

from multimax import reweight


def sparsemax(X: Tensor, dim: int = -1, k: int | None = None) -> Tensor:
    """``multimax.reweight.sparsemax`` of scores along ``dim``, in their shape and dtype; ``k`` has no effect."""
    return reweight.sparsemax(X, dim)


def entmax15(X: Tensor, dim: int = -1, k: int | None = None) -> Tensor:
    """``multimax.reweight.entmax15`` of scores along ``dim``, in their shape and dtype; ``k`` has no effect."""
    return reweight.entmax15(X, dim)


class _Activation(nn.Module):
    def __init__(self, dim: int = -1, k: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.k = k


class Sparsemax(_Activation):
    """``sparsemax`` as a module."""

    def forward(self, X: Tensor) -> Tensor:
        return sparsemax(X, self.dim, self.k)


class Entmax15(_Activation):
    """``entmax15`` as a module."""

    def forward(self, X: Tensor) -> Tensor:
        return entmax15(X, self.dim, self.k)
