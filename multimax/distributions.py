"""A categorical distribution with the weights of any reweighting as probabilities, zeros included.

policy = Categorical(scores, "sparsemax", mask)
loss = -(policy.log_prob(policy.sample()) * reward).mean()
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl
from torch.nn import functional as F

from multimax.formulas.rows import (
    DTYPES,
    broadcast_together,
    broadcasts,
    check_arguments,
    check_bool,
    check_count,
    check_dense,
    check_number,
    compute_dtype,
)
from multimax.formulas.torch_private import is_readable
from multimax.kernels.row_kernels import MultiMax, Softmax
from multimax.reweight import Reweighting, create
from multimax.reweight._base import IN_LOSS, may_bypass

__all__ = ["Categorical"]


class Categorical(Distribution):
    """Classes 0 to n - 1 with the weights of ``scores`` as probabilities; with softmax it is torch's ``Categorical``.

    ``torch.distributions.Categorical(probs=...)`` clamps its probabilities away from zero; here a class of probability
    zero is never sampled, its log-probability is -inf, and it passes no gradient.

    Args:
        scores: floating point [..., n].
        reweight: a module of ``multimax.reweight`` or the name of a function; its weights must sum to one.
        mask: bool, broadcastable to ``scores``, True where a class can occur; None: all can.

    Attributes:
        probs: the probabilities [..., n].
        logits: their logarithms, -inf where a probability is zero.

    Raises:
        TypeError, ValueError: an argument that does not fit, a function whose weights do not sum to one, or a row of
            the mask in which no class can occur, in one line. The methods raise the same errors.
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, scores: Tensor, reweight: Reweighting | str = "softmax", mask: Tensor | None = None) -> None:
        module = create(reweight) if isinstance(reweight, str) else reweight
        if not isinstance(module, Reweighting):
            raise TypeError(f"reweight must be a Reweighting or a name, got {type(module).__name__}")
        if not module.sums_to_one:
            raise ValueError(f"reweight must give probabilities, but the weights of {reweight!r} do not sum to one")
        check_arguments(scores, mask)
        if scores.shape[-1] == 0:
            raise ValueError(f"scores must have at least one class, got shape {tuple(scores.shape)}")
        if mask is not None and is_readable(mask) and not mask.any(-1).all():
            raise ValueError("mask must leave each row at least one class")
        x = scores.to(compute_dtype(scores))
        self.probs = module(x, mask)
        self.logits = _log_probs(module, x, mask, self.probs)
        super().__init__(self.probs.shape[:-1], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.probs.shape[-1] - 1)

    @property
    def mode(self) -> Tensor:
        """The most probable class, int64 [...]."""
        return self.probs.argmax(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Categorical":
        """The same distribution for another batch shape, to which this one's broadcasts; nothing is copied."""
        batch_shape = _size("batch_shape", batch_shape)
        if not broadcasts(self.batch_shape, batch_shape):
            raise ValueError(
                f"batch_shape must be one to which {tuple(self.batch_shape)} expands, got {tuple(batch_shape)}"
            )
        new = self._get_checked_instance(Categorical, _instance)
        new.probs, new.logits = (t.expand(*batch_shape, -1) for t in (self.probs, self.logits))
        super(Categorical, new).__init__(batch_shape, validate_args=False)
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Classes, int64 ``[*sample_shape, ...]``."""
        shape = self._extended_shape(_size("sample_shape", sample_shape))
        if shape.numel() == 0:
            return torch.empty(shape, dtype=torch.int64, device=self.probs.device)
        rows = self.probs.detach().reshape(-1, self.probs.shape[-1])
        return torch.multinomial(rows, math.prod(sample_shape), replacement=True).T.reshape(shape)

    def rsample(self, sample_shape: Any = (), *, temperature: float | None = None) -> Tensor:
        """Vectors ``[*sample_shape, ..., n]`` that pass gradients to the scores.

        Without a ``temperature`` they are straight-through samples (Bengio et al. 2013, arXiv 1308.3432): one-hot, with
        the gradient of the probabilities. With one they are Gumbel-softmax samples (Jang et al. 2017, arXiv
        1611.01144): positive where the probabilities are, largest at the class that is drawn.
        """
        if temperature is None:
            hot = F.one_hot(self.sample(sample_shape), self.probs.shape[-1]).to(self.probs.dtype)
            return hot + (self.probs - self.probs.detach())
        check_number("temperature", temperature, above=0)
        sample_shape = _size("sample_shape", sample_shape)
        noise = torch.empty((*sample_shape, *self.probs.shape), dtype=self.probs.dtype, device=self.probs.device)
        gumbel = -noise.exponential_().log()
        return torch.softmax((self.logits + gumbel) / temperature, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of classes int64 [...], in a shape that broadcasts with the rows.

        Raises:
            TypeError, ValueError: ``value`` is not a tensor of real numbers, is on another device or does not
                broadcast; on a CPU, it holds something that is not a class.
        """
        check_dense("value", value)
        if value.is_complex() or (value.is_floating_point() and value.dtype not in DTYPES):
            raise TypeError(f"value must be classes, int64, got {value.dtype}")
        if value.device != self.probs.device:
            raise ValueError(f"value must be on {self.probs.device}, where the scores are, got {value.device}")
        if not broadcast_together(value.shape, self.batch_shape):
            raise ValueError(
                f"value of shape {tuple(value.shape)} does not broadcast with a batch of {tuple(self.batch_shape)}"
            )
        if value.device.type == "cpu" and is_readable(value):  # a GPU's host would have to wait
            n = self.probs.shape[-1]
            outside = (value < 0) | (value >= n) | (value != value.long())
            if outside.any():
                raise ValueError(f"value must be classes from 0 to {n - 1}, got {value[outside][0].item()}")
        value, log_probs = torch.broadcast_tensors(value.long().unsqueeze(-1), self.logits)
        return log_probs.gather(-1, value[..., :1]).squeeze(-1)

    def entropy(self) -> Tensor:
        """-sum p log p with 0 log 0 = 0, [...]."""
        return -(self.probs * self.logits.where(self.probs > 0, 0)).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Every class, int64 [n, ...]."""
        check_bool("expand", expand)
        values = torch.arange(self.probs.shape[-1], device=self.probs.device)
        values = values.reshape(-1, *(1 for _ in self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values


def _size(name: str, shape: Any) -> torch.Size:
    if not isinstance(shape, tuple | list):
        raise TypeError(f"{name} must be a tuple of sizes, such as (3,), got {type(shape).__name__}")
    for n in shape:
        check_count(f"each size in {name}", n, least=0)
    return torch.Size(shape)


def _log_probs(module: Reweighting, x: Tensor, mask: Tensor | None, probs: Tensor) -> Tensor:
    is_softmax = may_bypass(module, "row_kernel", IN_LOSS) and isinstance(module.row_kernel(), Softmax | MultiMax)
    if is_softmax:  # of the modulated scores: a probability may underflow when its logarithm does not
        y = module.modulate(x if mask is None else x.where(mask, 0))
        return torch.log_softmax(y if mask is None else y.where(mask, -math.inf), -1)
    return probs.where(probs > 0, 1).log().masked_fill(probs == 0, -math.inf)


@register_kl(Categorical, Categorical)
def _kl(p: Categorical, q: Categorical) -> Tensor:
    """sum p log(p / q): inf where a class of p is impossible in q."""
    shapes = tuple(p.probs.shape), tuple(q.probs.shape)
    if p.probs.device != q.probs.device:
        raise ValueError(f"the scores of p and q must be on one device, got {p.probs.device} and {q.probs.device}")
    if shapes[0][-1] != shapes[1][-1] or not broadcast_together(*shapes):
        raise ValueError(f"the scores of p and q must have the same classes and batches that broadcast, got {shapes}")
    impossible = (p.probs > 0) & (q.probs == 0)
    difference = p.logits.where(p.probs > 0, 0) - q.logits.where((p.probs > 0) & (q.probs > 0), 0)
    return (p.probs * difference).sum(-1).masked_fill(impossible.any(-1), math.inf)
