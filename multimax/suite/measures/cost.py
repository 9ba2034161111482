"""The cost of a reweighting, counted as operations in a forward pass.

Operations are counted from the graph of the written-out functions: one for each entry that an elementwise operation
makes or a reduction reads, and two for each multiplication and addition of a matrix product. They say how much there is
to do, not how long it takes: all of these functions are memory-bound, and a fused kernel does the same operations in a
single pass over memory. Measured times are in ``benchmarks``.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from multimax import kernels
from multimax.reweight import Reweighting

REDUCTIONS = {"sum", "amax", "mean", "any"}
FREE = {"where", "clone", "_to_copy", "copy", "fill", "zeros_like", "ones_like", "empty_like"}
"""Elementwise, but without arithmetic: they select or move entries."""
DECOMPOSED = get_decompositions([torch.ops.aten._softmax])


class CountOperations(TorchDispatchMode):
    """Counts, in ``total``, the elementwise operations and reductions carried out in its block."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operation in DECOMPOSED:
            with self:
                return DECOMPOSED[operation](*args, **kwargs or {})
        result = operation(*args, **kwargs or {})
        name = operation.overloadpacket.__name__
        if name in REDUCTIONS:
            self.total += args[0].numel()
        elif isinstance(result, Tensor) and torch.Tag.pointwise in operation.tags and name not in FREE:
            self.total += result.numel()
        return result


def operations(function: Reweighting, scores: Tensor) -> int:
    """Elementwise operations and reductions of ``function`` on ``scores``.

    Iterative functions run until they converge on these scores.
    """
    with kernels.use("eager"), CountOperations() as counter, torch.no_grad():
        function(scores)
    return counter.total


def matrix_products(model: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of a forward pass's matrix products, two per multiplication and addition."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops()
