"""Sparsemax and 1.5-entmax under the names of ``entmax.activations``."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from multimax import reweight
from multimax.formulas.rows import check_arguments


def check_scores(X: Tensor, dim: int) -> None:
    """Raise TypeError or ValueError, in one line, if ``X`` cannot be normalised along ``dim``."""
    if dim is None:
        raise TypeError("dim must be an int, got None")
    check_arguments(X, None, dim, "X")


def sparsemax(X: Tensor, dim: int = -1, k: int | None = None) -> Tensor:
    """``multimax.reweight.sparsemax`` of scores along ``dim``, in their shape and dtype; ``k`` has no effect."""
    check_scores(X, dim)
    return reweight.sparsemax(X, dim)


def entmax15(X: Tensor, dim: int = -1, k: int | None = None) -> Tensor:
    """``multimax.reweight.entmax15`` of scores along ``dim``, in their shape and dtype; ``k`` has no effect."""
    check_scores(X, dim)
    return reweight.entmax15(X, dim)


class FunctionModule(nn.Module):
    """A function as a module. Its options are attributes; those that are Parameters are the module's parameters."""

    def __init__(self, function: Callable[..., Tensor], **options: Any) -> None:
        super().__init__()
        self._function, self._options = function, tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._function(*inputs, **{name: getattr(self, name) for name in self._options})


class Sparsemax(FunctionModule):
    """``sparsemax`` as a module."""

    def __init__(self, dim: int = -1, k: int | None = None) -> None:
        super().__init__(sparsemax, dim=dim, k=k)


class Entmax15(FunctionModule):
    """``entmax15`` as a module."""

    def __init__(self, dim: int = -1, k: int | None = None) -> None:
        super().__init__(entmax15, dim=dim, k=k)
