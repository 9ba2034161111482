"""Floating-point operations of attention that never holds its scores, as ``torch.utils.flop_counter`` counts them.

Only matrix products count, with all keys for each query, even those that a mask leaves out.
"""

from typing import Any

from torch import Tensor


def attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, out_val: Any = None) -> int:
    """query key^T and weights value."""
    return 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def attention_backward_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """The scores again, and two products for each of the forward's."""
    return 2 * query.shape[:-1].numel() * key.shape[-2] * (3 * query.shape[-1] + 2 * value.shape[-1])
