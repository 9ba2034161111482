"""Losses for classifiers: the cross-entropy of log-weights, and the Fenchel-Young losses of the entmax family.

Blondel, Martins, Niculae, "Learning with Fenchel-Young losses", JMLR 21 (2020), arXiv 1901.02324. With the Tsallis
entropy H_a(p) = sum_i (p_i - p_i^a) / (a (a - 1)), and p = entmax_a(x), which maximises p.x + H_a(p),

    L(x; y) = (p - y).x + H_a(p) - H_a(y)  >=  0,      zero exactly where p = y,
    dL/dx = p - y,      dL/da = dH_a(p)/da - dH_a(y)/da      (p is a maximiser: it may be held fixed).

Checked against ``sparsemax_loss``, ``entmax15_loss`` and ``entmax_bisect_loss`` of the entmax package 1.3, which take
hard targets only.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from multimax.reweight._rows import compute_dtype
from multimax.reweight._tsallis import tsallis_entropy, tsallis_entropy_slope


def cross_entropy(
    log_weights: Tensor, targets: Tensor, *, label_smoothing: float, reduction: str, ignore_index: int
) -> Tensor:
    """``torch.nn.functional.cross_entropy``, in float32 for half precision."""
    logits = log_weights.to(compute_dtype(log_weights))
    if targets.is_floating_point():
        targets = targets.to(logits.dtype)
    return F.cross_entropy(
        logits, targets, label_smoothing=label_smoothing, reduction=reduction, ignore_index=ignore_index
    )


def fenchel_young(
    scores: Tensor,
    weights: Tensor,
    alpha: float | Tensor,
    targets: Tensor,
    *,
    label_smoothing: float,
    reduction: str,
    ignore_index: int,
) -> Tensor:
    """Loss of ``weights``, the entmax of ``scores`` [N, C] at ``alpha``; the rest as for ``Reweighting.loss``."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    hard = not targets.is_floating_point()
    counted = targets != ignore_index if hard else scores.new_ones(len(scores), dtype=torch.bool)
    if hard:
        index = targets.where(counted, 0).unsqueeze(-1)
        targets = torch.zeros_like(scores).scatter(-1, index, 1)
    targets = targets.to(scores.dtype) * (1 - label_smoothing) + label_smoothing / scores.shape[-1]
    losses = _FenchelYoung.apply(scores, weights, targets, alpha).where(counted, 0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / counted.sum()


class _FenchelYoung(torch.autograd.Function):
    """The loss per row. The weights are an input so that a second derivative finds its way through them."""

    @staticmethod
    def forward(scores: Tensor, weights: Tensor, targets: Tensor, alpha: float | Tensor) -> Tensor:
        # p - y sums to zero, so the scores may be shifted; the bound keeps 0 * -inf out where the shift overflows.
        z = (scores - scores.amax(-1, keepdim=True)).clamp(min=torch.finfo(scores.dtype).min)
        return ((weights - targets) * z).sum(-1) + tsallis_entropy(weights, alpha) - tsallis_entropy(targets, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weights, targets, alpha = inputs
        is_tensor = isinstance(alpha, Tensor)
        ctx.alpha = None if is_tensor else alpha
        ctx.save_for_backward(weights, targets, *([alpha] if is_tensor else []))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        weights, targets, *rest = ctx.saved_tensors
        alpha = rest[0] if rest else ctx.alpha
        grad_scores = grad_alpha = None
        if ctx.needs_input_grad[0]:
            grad_scores = grad.unsqueeze(-1) * (weights - targets)
        if ctx.needs_input_grad[3]:
            slope = tsallis_entropy_slope(weights, alpha) - tsallis_entropy_slope(targets, alpha)
            grad_alpha = (grad * slope).sum().reshape(alpha.shape)
        return grad_scores, None, None, grad_alpha
