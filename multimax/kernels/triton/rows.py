"""The Triton row kernels: the operators of ``multimax.kernels.operators`` for CUDA tensors, under the same names.

Importing this imports Triton. Each function can be called directly with the arguments of its operator; also, slowly,
with CPU tensors if TRITON_INTERPRET=1 was set before Triton was imported.
"""

from multimax.kernels.triton.entmax import alpha_entmax_backward, alpha_entmax_forward, entmax_backward, entmax_forward
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
