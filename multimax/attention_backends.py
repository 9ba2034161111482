"""The ways to compute attention. Each can say why it cannot serve a call, and run it.

``multimax.attention`` takes the first that can serve and is worth it. A function may bring
more (``Reweighting.attention_backends``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax import kernels
from multimax.formulas.attention import attention_scores, beside_sink
from multimax.formulas.rows import autocast_dtype
from multimax.formulas.torch_private import is_transformed
from multimax.kernels import adasplash
from multimax.kernels.attention import blocked_attention, kernel_arguments
from multimax.kernels.row_kernels import Entmax, MultiMax, RowKernel, Softmax
from multimax.kernels.triton import flash
from multimax.reweight import Reweighting
from multimax.reweight._base import may_bypass

# On the CPU: scores of one head from which on blocks are as fast as the reference or faster. In ones of 32 by 32 scores
# they take twice its time, of 96 by 96 as much, of 128 by 128 and more 0.9 to 1 of it.
BLOCKED_FROM = 2**14
# Half precision they compute in float32, at up to 1.6 of the reference's time where the processor has products for it.
# There they are for the memory: scores of one call that take 128 MB in each layer, and as much again for the weights.
HALF_BLOCKED_FROM = 2**26
# Keys from which on a GPU takes a flash kernel. On an H100, at 196 keys, forward and backward took 0.64 ms where six
# products with whole scores take 0.75 and the row kernels 0.3 more. Fewer keys, and float32, which the flash kernels
# multiply without tensor cores, were not measured.
FLASH_FROM, SINGLE_FLASH_FROM = 64, 512


@dataclass(frozen=True)
class Call:
    """The arguments of ``multimax.attention``, checked.

    ``row_kernel`` computes what ``reweight`` does; None where that has to be called. To ``run`` a call comes with zeros
    for queries that may attend to no key and keys that no query may attend to.
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
        """``mask`` combined with what ``causal`` asks for."""
        if not self.causal:
            return self.mask
        shape = self.query.shape[-2], self.key.shape[-2]
        up_to_own = torch.ones(shape, dtype=torch.bool, device=self.query.device).tril()
        return up_to_own if self.mask is None else self.mask & up_to_own

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value as autocast would have them in a matrix product."""
        dtype = autocast_dtype(self.query) or self.query.dtype
        return self.query.to(dtype), self.key.to(dtype), self.value.to(dtype)

    def in_half(self, device: str) -> bool:
        return self.query.dtype.itemsize < 4 or torch.is_autocast_enabled(device)

    def beyond_products(self) -> str | None:
        """The sentence for a backend whose scores are products of query and key and nothing else, or None."""
        extras = {"bias": self.bias, "softcap": self.softcap, "sink": self.sink}
        return next((f"it takes no {name}" for name, extra in extras.items() if extra is not None), None)

    def not_for(self, functions: str) -> str:
        """The sentence for a backend that has no kernel for ``reweight``."""
        name = getattr(self.reweight, "__name__", type(self.reweight).__name__)
        if isinstance(self.reweight, Reweighting) and not may_bypass(self.reweight, "row_kernel"):
            return f"{name} must be called as a module, for a hook or for a method that is not its class's"
        return f"it is for {functions}, not {name}"


class Backend(Protocol):
    name: str

    def obstacle(self, call: Call) -> str | None:
        """What stands in the way of this call, in one line, or None."""

    def pays(self, call: Call) -> bool:
        """Whether to take it unasked, if there is no obstacle: what is cheap to say comes here."""

    def run(self, call: Call) -> Tensor:
        """The output [..., heads, queries, value_dim] in the dtype of ``value``."""


class Reference:
    """Tensor operations, for any call. It holds all scores, and differentiates as often as the function does."""

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
    return beside_sink(call.reweight, _scores(call, call.query, call.key), call.whole_mask(), call.sink)


def _scores(call: Call, query: Tensor, key: Tensor) -> Tensor:
    return attention_scores(query, key, bias=call.bias, scale=call.scale, softcap=call.softcap)


def attend_to_live(call: Call) -> Tensor:
    """The reference where query, key or value hold NaN or infinities: these reach live entries alone.

    Products run over dead entries too, and zero times NaN is NaN. So they are taken of finite rows, and what the others
    make of live entries is put in: NaN, mostly, which has no gradient to lose.
    """
    live = call.whole_mask()
    assert live is not None
    tensors = (call.query, call.key, call.value)
    finite = [t.isfinite().all(-1, keepdim=True) for t in tensors]
    query, key, value = (t.where(rows, 0) for t, rows in zip(tensors, finite, strict=True))
    met = _scores(call, call.query, call.key).detach()
    touched = ~(finite[0] & finite[1].mT) & live
    weights = beside_sink(call.reweight, met.where(touched, _scores(call, query, key)), live, call.sink)
    if call.dropout:
        weights = F.dropout(weights, call.dropout)
    hit = (weights != 0).to(value.dtype) @ (~call.value.isfinite()).to(value.dtype) > 0
    return (weights @ call.value).detach().where(hit, weights @ value)


class Sdpa:
    """PyTorch's fused kernels, for softmax."""

    name = "sdpa"

    def obstacle(self, call: Call) -> str | None:
        if reason := call.beyond_products():
            return reason
        if not isinstance(call.row_kernel, Softmax):
            return call.not_for("softmax")
        return "it has no forward-mode derivative" if is_transformed() else None

    def pays(self, call: Call) -> bool:
        return True

    def run(self, call: Call) -> Tensor:
        tensors, dropout, scale = (call.query, call.key, call.value), call.dropout, call.scale
        if call.mask is None:
            return F.scaled_dot_product_attention(*tensors, dropout_p=dropout, is_causal=call.causal, scale=scale)
        mask = torch.atleast_2d(call.whole_mask())  # a mask over keys alone is one for every query
        output = F.scaled_dot_product_attention(*tensors, attn_mask=mask, dropout_p=dropout, scale=scale)
        # The fused kernels disagree on a row without a live key: some give NaN, some a mean over dead values.
        return torch.where(mask.any(-1, keepdim=True), output, 0.0)


class Blocked:
    """C++ on the CPU, in blocks that stay in its cache; memory linear in the lengths, but for a bias."""

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
            return "query, key and value must be of the same batches and heads"
        if kernel_arguments(call.row_kernel, query) is None:
            return f"it has no kernel for such parameters of {type(call.reweight).__name__}"
        return None

    def pays(self, call: Call) -> bool:
        if kernels.path(call.query) != "cpp":  # a length that torch.export has open must not be looked at
            return False
        queries, keys = call.query.shape[-2], call.key.shape[-2]
        if call.in_half("cpu"):
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
        return flash.supports(*call.factors(), call.mask, dropout=call.dropout)

    def pays(self, call: Call) -> bool:
        return _pays_on_gpu(call)

    def run(self, call: Call) -> Tensor:
        query, key, value = call.factors()
        attend = partial(flash.flash_attention, causal=call.causal, scale=call.scale, dropout=call.dropout)
        if isinstance(call.row_kernel, MultiMax):
            kernel = call.row_kernel
            return attend(query, key, value, kernel.ranges, kernel.ts, kernel.powers, call.mask)
        return attend(query, key, value, None, None, (), call.mask)


class AdaSplash:
    """The package of that name on a GPU, for entmax with a fixed alpha."""

    name = "adasplash"

    def obstacle(self, call: Call) -> str | None:
        if reason := call.beyond_products():
            return reason
        if not isinstance(call.row_kernel, Entmax):
            return call.not_for("entmax")
        return adasplash.supports(*call.factors(), call.row_kernel.alpha, call.mask, dropout=call.dropout)

    def pays(self, call: Call) -> bool:
        return _pays_on_gpu(call)

    def run(self, call: Call) -> Tensor:
        assert isinstance(call.row_kernel, Entmax)
        alpha = call.row_kernel.alpha
        assert not isinstance(alpha, Tensor)
        return adasplash.flash_entmax(*call.factors(), alpha, causal=call.causal, scale=call.scale)


def _pays_on_gpu(call: Call) -> bool:
    if not call.query.is_cuda or kernels.path(call.query) != "triton":
        return False
    return call.key.shape[-2] >= (FLASH_FROM if call.in_half("cuda") else SINGLE_FLASH_FROM)


BACKENDS: dict[str, Backend] = {b.name: b for b in (Sdpa(), Blocked(), Flash(), AdaSplash(), Reference())}
