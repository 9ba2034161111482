"""The ways to compute attention. Each can run a call or say why it cannot.

``multimax.attention`` uses the first that can and is worth using. A function may bring more
(``Reweighting.attention_backends``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax import kernels
from multimax.formulas.attention import attention_scores, beside_sink
from multimax.formulas.torch_private import is_transformed
from multimax.kernels.attention import blocked_attention, kernel_arguments
from multimax.kernels.row_kernels import MultiMax, RowKernel, Softmax
from multimax.kernels.triton import flash
from multimax.reweight import Reweighting
from multimax.reweight._base import may_bypass

# On the CPU, blocks are at least as fast as the reference from this many scores per head. They take twice its time with
# 32 by 32 scores, the same with 96 by 96, and 0.9 to 1 times as long with 128 by 128 or more.
BLOCKED_FROM = 2**14
# Blocks compute half precision in float32, which takes up to 1.6 times as long as the reference on processors that
# multiply half precision natively. There they save memory: this many scores take 128 MB per layer, and so do the
# weights.
HALF_BLOCKED_FROM = 2**26
# A GPU uses a flash kernel from this many keys. On an H100 with 196 keys, its forward and backward took 0.64 ms; with
# whole scores, six matrix products take 0.75 ms and the row kernels another 0.3. Fewer keys were not measured, nor was
# float32, which the flash kernels multiply without tensor cores.
FLASH_FROM, SINGLE_FLASH_FROM = 64, 512


@dataclass(frozen=True)
class Call:
    """The arguments of ``multimax.attention``, checked.

    ``row_kernel`` computes what ``reweight`` does, or is None if ``reweight`` itself has to be called. When a call is
    ``run``, its queries and keys are finite, or those that ``mask`` excludes altogether are zero.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    reweight: Callable[..., Tensor]
    row_kernel: RowKernel | None
    mask: Tensor | None
    bias: Tensor | None
    causal: bool
    scale: float
    softcap: float | None
    sink: Tensor | None
    dropout: float

    def whole_mask(self) -> Tensor | None:
        """``mask`` combined with the causal mask."""
        if not self.causal:
            return self.mask
        shape = self.query.shape[-2], self.key.shape[-2]
        up_to_own = torch.ones(shape, dtype=torch.bool, device=self.query.device).tril()
        return up_to_own if self.mask is None else self.mask & up_to_own

    def in_half(self) -> bool:
        return self.query.dtype.itemsize < 4 or torch.is_autocast_enabled(self.query.device.type)

    def beyond_products(self) -> str | None:
        """The obstacle for a backend whose scores are just products of query and key, or None."""
        extras = {"bias": self.bias, "softcap": self.softcap, "sink": self.sink}
        return next((f"it takes no {name}" for name, extra in extras.items() if extra is not None), None)

    def not_for(self, functions: str) -> str:
        """The obstacle for a backend that has no kernel for ``reweight``."""
        name = getattr(self.reweight, "__name__", type(self.reweight).__name__)
        if isinstance(self.reweight, Reweighting) and not may_bypass(self.reweight, "row_kernel"):
            return f"{name} must be called as a module, because of a hook or an overridden method"
        return f"it is for {functions}, not {name}"


class Backend(Protocol):
    name: str

    def obstacle(self, call: Call) -> str | None:
        """Why this call cannot be served, in one line, or None."""

    def pays(self, call: Call) -> bool:
        """Whether to use it unasked if there is no obstacle. Checked before ``obstacle``, so it should be cheap."""

    def run(self, call: Call) -> Tensor:
        """The output [..., heads, queries, value_dim] in the dtype of ``value``."""


class Reference:
    """Tensor operations, for any call. They hold all scores, and can be differentiated as often as the function can."""

    name = "reference"

    def obstacle(self, call: Call) -> None:
        return None

    def pays(self, call: Call) -> bool:
        return True

    def run(self, call: Call) -> Tensor:
        weights = weigh(call)
        if call.dropout:
            weights = F.dropout(weights, call.dropout)
        return weights @ call.value


def weigh(call: Call) -> Tensor:
    """The weights of a call, [..., heads, queries, keys]."""
    return beside_sink(call.reweight, scores_of(call), call.whole_mask(), call.sink)


def scores_of(call: Call) -> Tensor:
    return attention_scores(call.query, call.key, bias=call.bias, scale=call.scale, softcap=call.softcap)


class Sdpa:
    """PyTorch's fused kernels, for softmax."""

    name = "sdpa"

    def obstacle(self, call: Call) -> str | None:
        if reason := call.beyond_products():
            return reason
        if not isinstance(call.row_kernel, Softmax):
            return call.not_for("softmax")
        return "it takes nothing that torch.func or forward mode transforms" if is_transformed() else None

    def pays(self, call: Call) -> bool:
        return True

    def run(self, call: Call) -> Tensor:
        tensors, dropout, scale = (call.query, call.key, call.value), call.dropout, call.scale
        if call.mask is None:
            return F.scaled_dot_product_attention(*tensors, dropout_p=dropout, is_causal=call.causal, scale=scale)
        mask = torch.atleast_2d(call.whole_mask())  # a mask over keys alone applies to every query
        output = F.scaled_dot_product_attention(*tensors, attn_mask=mask, dropout_p=dropout, scale=scale)
        # The fused kernels disagree about a row without a live key: some give NaN, some the mean of dead values.
        return torch.where(mask.any(-1, keepdim=True), output, 0.0)


class Blocked:
    """C++ on the CPU, in blocks that stay in cache; memory is linear in the lengths, except for a bias."""

    name = "blocked"

    def obstacle(self, call: Call) -> str | None:
        query, key, value = call.query, call.key, call.value
        if call.dropout:
            return "it has no dropout"
        if call.row_kernel is None:
            return call.not_for("functions with a row kernel")
        if any(kernels.path(t) != "cpp" for t in (query, key, value, call.bias, call.sink) if t is not None):
            return "it needs the C++ kernels of the CPU"
        if not query.dim() == key.dim() == value.dim() == 4:
            return f"it takes 4 dimensions, got {query.dim()}, {key.dim()} and {value.dim()}"
        if not query.shape[:2] == key.shape[:2] == value.shape[:2]:
            return "query, key and value must have the same batch size and heads: expand them"
        if kernel_arguments(call.row_kernel, query) is None:
            return f"it has no kernel for these parameters of {type(call.reweight).__name__}"
        return None

    def pays(self, call: Call) -> bool:
        if kernels.path(call.query) != "cpp":  # first, since lengths that torch.export leaves open must not be compared
            return False
        queries, keys = call.query.shape[-2], call.key.shape[-2]
        if call.in_half():
            return call.query.shape[:-1].numel() * keys >= HALF_BLOCKED_FROM
        return queries * keys >= BLOCKED_FROM

    def run(self, call: Call) -> Tensor:
        assert call.row_kernel is not None
        tensors = call.query, call.key, call.value, call.whole_mask(), call.bias, call.sink
        return blocked_attention(*tensors, call.row_kernel, call.scale, call.softcap)


class Flash:
    """Triton on an NVIDIA GPU, for MultiMax and softmax; memory linear in the lengths."""

    name = "flash"

    def obstacle(self, call: Call) -> str | None:
        if reason := call.beyond_products():
            return reason
        if not isinstance(call.row_kernel, MultiMax | Softmax):
            return call.not_for("MultiMax and softmax")
        return flash.supports(call.query, call.key, call.value, call.mask, dropout=call.dropout)

    def pays(self, call: Call) -> bool:
        if not call.query.is_cuda or kernels.path(call.query) != "triton":
            return False
        return call.key.shape[-2] >= (FLASH_FROM if call.in_half() else SINGLE_FLASH_FROM)

    def run(self, call: Call) -> Tensor:
        kernel = call.row_kernel
        hinges: Any = (kernel.ranges, kernel.ts, kernel.powers) if isinstance(kernel, MultiMax) else (None, None, ())
        tensors = call.query, call.key, call.value, *hinges, call.mask
        return flash.flash_attention(*tensors, causal=call.causal, scale=call.scale, dropout=call.dropout)


BACKENDS: dict[str, Backend] = {b.name: b for b in (Sdpa(), Blocked(), Flash(), Reference())}
