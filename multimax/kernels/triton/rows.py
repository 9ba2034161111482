"""The Triton row kernels: the operators of ``multimax.kernels.operators`` for CUDA tensors, by the same names.

To import this is to import Triton. Each function can also be called directly, with the arguments of its operator; with
TRITON_INTERPRET=1 in the environment before Triton is imported, on CPU tensors too, slowly.
"""

from multimax.kernels.triton.entmax import (
    alpha_entmax_backward,
    alpha_entmax_forward,
    entmax_backward,
    entmax_forward,
)
from multimax.kernels.triton.evsoftmax import evsoftmax_forward
from multimax.kernels.triton.multimax import multimax_backward, multimax_forward

__all__ = [
    "alpha_entmax_backward",
    "alpha_entmax_forward",
    "entmax_backward",
    "entmax_forward",
    "evsoftmax_forward",
    "multimax_backward",
    "multimax_forward",
]
