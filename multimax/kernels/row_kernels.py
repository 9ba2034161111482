"""Descriptions of the row kernels: which kernel turns a row of scores into weights, with which parameters.

A description is all that attention and the loss of an output layer need to compute a function without its matrix of
weights. It holds the arguments of its namesake in ``multimax.reweight``; as there, parameters may be any floating-point
tensors, with gradients.

There are kernels of these four kinds; any other function can bring its own attention backend. A new kind touches
``operators``, ``attention``, ``segments``, ``cpu`` (NAME_rows.h, row_kernels.h, kernel_arguments.h, rows.cpp) and
``triton`` (NAME.py, rows.py).
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Softmax:
    """softmax(x)"""


@dataclass(frozen=True)
class MultiMax:
    """softmax(SegLU(x)): ``ranges`` and ``ts`` [k] or [heads, k], and the powers of the k hinges.

    ``powers`` is (1, 1), (2, 2) or (1, 1, 2, 2): hinges on the left and on the right in turn. Ranges may be 2 of 4.
    """

    ranges: Tensor
    ts: Tensor
    powers: tuple[int, ...]


@dataclass(frozen=True)
class Entmax:
    """entmax(x, alpha): a number above 1 and at most 2, or a tensor in [1, 2] with one element or [heads]."""

    alpha: float | Tensor


@dataclass(frozen=True)
class EvSoftmax:
    """evsoftmax(x, epsilon=epsilon)"""

    epsilon: float = 0.0


RowKernel = Softmax | MultiMax | Entmax | EvSoftmax
