"""Sparsemax, 1.5-entmax and alpha-entmax, without a sort and without bisection.

Martins & Astudillo, "From Softmax to Sparsemax", ICML 2016, arXiv 1602.02068; Peters, Niculae, Martins, "Sparse
Sequence-to-Sequence Models", ACL 2019, arXiv 1905.05702; Correia, Niculae, Martins, "Adaptively Sparse Transformers",
EMNLP 2019, arXiv 1909.00015 (alpha learned per head). Checked against version 1.3 of the authors' entmax package.

    p_i = relu((alpha - 1) x_i - tau)^(1 / (alpha - 1)),      tau such that sum_i p_i = 1

alpha = 2 is sparsemax; alpha -> 1 is softmax. The normaliser is found by Newton's method on a convex increasing
function, from the side on which no step overshoots. Backward, with s_i = p_i^(2 - alpha) on the support, psi of
``_tsallis`` and g the incoming gradient:

    dx_i = s_i (g_i - sum_j s_j g_j / sum_j s_j),      dalpha = -sum_i psi_i dx_i
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from multimax import kernels
from multimax.kernels import operators, row_kernels
from multimax.reweight._base import Reweighting
from multimax.reweight._losses import fenchel_young
from multimax.reweight._registry import register
from multimax.reweight._rows import check_arguments, compute_dtype, over_live_entries, per_head
from multimax.reweight._softmax import softmax
from multimax.reweight._tsallis import distance_from_one, log_of_support, psi

# Up to 14 steps were seen, in float64, on rows built to need many and on normal ones with up to 100,000 entries.
MAX_STEPS = 20


def sparsemax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Euclidean projection of the scores on the simplex, over the last dimension (entmax at alpha = 2).

    Args:
        scores: floating point [..., n].
        mask: bool, broadcastable to ``scores``, True where an entry is live; None: all are.

    Returns:
        Weights in the shape and dtype of ``scores``.

    Raises:
        TypeError: ``scores`` not floating point, or ``mask`` not bool.
        ValueError: ``scores`` without a dimension, or a ``mask`` that does not broadcast to them.
    """
    return entmax(scores, 2.0, mask)


def entmax15(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Entmax at alpha = 1.5; arguments, result and errors as for ``sparsemax``."""
    return entmax(scores, 1.5, mask)


def entmax(scores: Tensor, alpha: float | Tensor, mask: Tensor | None = None) -> Tensor:
    """Alpha-entmax over the last dimension.

    Args:
        scores: floating point [..., n].
        alpha: in [1, 2]; 1 is softmax. A float, a tensor with one element, or one value per head, [heads] for scores
            [..., heads, queries, keys]. A tensor gets a gradient; its values are not checked but clamped to the bounds.
        mask: bool, broadcastable to ``scores``, True where an entry is live; None: all are.

    Returns:
        Weights in the shape and dtype of ``scores``.

    Raises:
        TypeError: ``scores`` not floating point, or ``mask`` not bool.
        ValueError: ``scores`` without a dimension, a ``mask`` that does not broadcast to them, a float ``alpha``
            outside [1, 2], or one per head for scores with another number of heads.
    """
    check_arguments(scores, mask)
    if isinstance(alpha, Tensor):
        if kernels.path(scores) == "eager":
            return over_live_entries(lambda x: _Entmax.apply(x, per_head(alpha, x).to(x.dtype)), scores, mask)
        return operators.entmax(scores, mask, per_head(alpha, scores).reshape(-1).to(compute_dtype(scores)))
    _check_alpha(alpha)
    if alpha == 1:
        return softmax(scores, mask)
    if kernels.path(scores) == "eager":
        return over_live_entries(lambda x: _Entmax.apply(x, float(alpha)), scores, mask)
    return operators.entmax(scores, mask, float(alpha))


def _check_alpha(alpha: float) -> None:
    if not 1 <= alpha <= 2:
        raise ValueError(f"alpha must be between 1 (softmax) and 2 (sparsemax), got {alpha}")


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, alpha: float | Tensor) -> Tensor:
        z = x - x.amax(-1, keepdim=True)
        if not isinstance(alpha, Tensor) and alpha == 2:
            p = _iterate(lambda a: _sparsemax_step(z, a), torch.ones_like(z[..., :1]))
        elif not isinstance(alpha, Tensor) and alpha == 1.5:
            p = _iterate(lambda a: _entmax15_step(z / 2, a), torch.ones_like(z[..., :1]))
        else:
            p = _iterate(lambda m: _entmax_step(z, distance_from_one(alpha), m), torch.zeros_like(z[..., :1]))
        # With many entries one unit in the last place of the normaliser shows in the sum.
        return p / p.sum(-1, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        alpha = inputs[1]
        is_tensor = isinstance(alpha, Tensor)
        ctx.alpha = None if is_tensor else alpha
        ctx.save_for_backward(output, *([alpha] if is_tensor else []))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        p, *rest = ctx.saved_tensors
        alpha = rest[0] if rest else ctx.alpha
        return gradient(grad, p, alpha, of_alpha=ctx.needs_input_grad[1])


def gradient(
    grad: Tensor, weights: Tensor, alpha: float | Tensor, *, of_alpha: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the scores and, if wanted, of ``alpha``, which broadcasts to the weights; differentiable."""
    d = distance_from_one(alpha)
    s = weights.where(weights > 0, 1).pow(1 - d) * (weights > 0)
    total = s.sum(-1, keepdim=True)
    grad_x = s * (grad - (s * grad).sum(-1, keepdim=True) / total.where(total > 0, 1))
    if not (of_alpha and isinstance(alpha, Tensor)):
        return grad_x, None
    return grad_x, -(psi(log_of_support(weights), d) * grad_x).sum_to_size(alpha.shape)


def _iterate(step: Callable[[Tensor], tuple[Tensor, Tensor]], normaliser: Tensor) -> Tensor:
    """Weights at the root that ``step``, from a normaliser to its weights and the next normaliser, comes down to."""
    compiling = torch.compiler.is_compiling()  # a graph cannot stop early
    for _ in range(MAX_STEPS):
        p, following = step(normaliser)
        following = torch.minimum(following, normaliser)  # rounding must not start a walk around the root
        if not compiling and torch.equal(following, normaliser):
            return p
        normaliser = following
    return step(normaliser)[0]


def _sparsemax_step(z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """p = relu(z + a), with a the largest weight."""
    p = torch.relu(z + a)
    return p, a - (p.sum(-1, keepdim=True) - 1) / (p > 0).sum(-1, keepdim=True)


def _entmax15_step(y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """p = relu(y + a)^2; Newton on the Euclidean norm of relu(y + a), less 1."""
    root = torch.relu(y + a)
    p = root.square()
    total = p.sum(-1, keepdim=True)
    return p, a - (total - total.sqrt()) / root.sum(-1, keepdim=True)


def _entmax_step(z: Tensor, d: float | Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """p = relu(d z + a)^(1/d), a = e^(d m), in terms of m, the logarithm of the largest weight, so that d may go to 0.

    Newton on the (1/d)-norm of relu(d z + a), less 1; for rows with equal entries it is linear and one step is exact.
    """
    a = torch.exp(d * m)
    p = torch.exp(m + torch.log1p((d * z / a).clamp(min=-1)) / d)
    s = p.where(p > 0, 1).pow(1 - d) * (p > 0)
    total = p.sum(-1, keepdim=True)
    share = -total * torch.expm1(-d * total.log()) / (a * s.sum(-1, keepdim=True))
    return p, m + torch.log1p(-share) / d


class _EntmaxFamily(Reweighting):
    has_loss = True
    alpha: float | Tensor

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return entmax(scores, self.alpha, mask)

    def row_kernel(self) -> row_kernels.RowKernel:
        alpha = self.alpha
        return row_kernels.Softmax() if isinstance(alpha, float) and alpha == 1 else row_kernels.Entmax(alpha)

    def loss(
        self,
        scores: Tensor,
        targets: Tensor,
        *,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> Tensor:
        """Fenchel-Young loss; arguments as ``Reweighting.loss`` has them.

        Zero exactly where the weights are the targets: unlike a cross-entropy it leaves out the entropy of the targets.
        """
        scores = scores.to(compute_dtype(scores))
        alpha = self.alpha
        if isinstance(alpha, Tensor):
            alpha = per_head(alpha, scores).to(scores.dtype)
        return fenchel_young(
            scores,
            entmax(scores, alpha),
            alpha,
            targets,
            label_smoothing=label_smoothing,
            reduction=reduction,
            ignore_index=ignore_index,
        )


@register("sparsemax")
class Sparsemax(_EntmaxFamily):
    """``sparsemax`` as a module; its loss is the Fenchel-Young loss at alpha = 2."""

    alpha = 2.0


@register("entmax15")
class Entmax15(_EntmaxFamily):
    """``entmax15`` as a module; its loss is the Fenchel-Young loss at alpha = 1.5."""

    alpha = 1.5


@register("entmax")
class Entmax(_EntmaxFamily):
    """``entmax`` as a module, with alpha learned or fixed; its loss is the Fenchel-Young loss at that alpha.

    A learned alpha is 1 + sigmoid(u), with u zero at the start, so that it begins at 1.5 and stays between 1 and 2.

    Args:
        alpha: None to learn it, or a number in [1, 2].
        per_head: learn one per head; otherwise one for all.
        num_heads: heads of the attention that it serves; 1 serves scores of any shape.

    Raises:
        ValueError: ``alpha`` outside [1, 2].
    """

    def __init__(self, alpha: float | None = None, per_head: bool = True, num_heads: int = 1) -> None:
        super().__init__()
        if alpha is None:
            self.u = nn.Parameter(torch.zeros(num_heads if per_head else 1))
        else:
            _check_alpha(alpha)
        self._fixed_alpha = None if alpha is None else float(alpha)

    @property
    def alpha(self) -> float | Tensor:  # type: ignore[override]
        return 1 + torch.sigmoid(self.u) if self._fixed_alpha is None else self._fixed_alpha

    def extra_repr(self) -> str:
        return f"num_heads={self.u.numel()}" if self._fixed_alpha is None else f"alpha={self._fixed_alpha}"
