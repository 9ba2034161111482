"""Losses for classifiers: the cross-entropy of log-weights, and the Fenchel-Young losses of the entmax family.

Blondel, Martins, Niculae, "Learning with Fenchel-Young losses", JMLR 21 (2020), arXiv 1901.02324. With the Tsallis
entropy H_a(p) = sum_i (p_i - p_i^a) / (a (a - 1)) and p = entmax_a(x), which maximises p.x + H_a(p),

    L(x; y) = (p - y).x + H_a(p) - H_a(y)  >=  0,      zero exactly where p = y,
    dL/dx = p - y,      dL/da = dH_a(p)/da - dH_a(y)/da      (p is a maximiser: it may be held fixed).

Checked against ``sparsemax_loss``, ``entmax15_loss`` and ``entmax_bisect_loss`` of the entmax package 1.3, which only
take hard targets.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from multimax.formulas import tsallis
from multimax.formulas.rows import DTYPES, INT64_MAX, check_dense, compute_dtype
from multimax.formulas.torch_private import is_readable, is_transformed

BLOCK = 2**18  # entries in a block of rows that stays in a CPU's cache together with its intermediate results


def formula(x: Tensor, p: Tensor, y: Tensor, alpha: float) -> Tensor:
    return ((p - y) * x).sum(-1) + tsallis.formula(p, alpha) - tsallis.formula(y, alpha)


def check_loss_arguments(
    shape: tuple[int, ...],
    device: torch.device,
    targets: Tensor,
    label_smoothing: float,
    reduction: str,
    ignore_index: int,
) -> None:
    """Raise TypeError or ValueError, in one line, for arguments that no loss of scores of ``shape`` can take.

    Class indices are only read on the CPU: a GPU's host would have to wait for them, so the device checks them.
    """
    if len(shape) != 2:
        raise ValueError(f"scores must be [N, C], got {tuple(shape)}")
    check_dense("targets", targets)
    hard = targets.dtype == torch.int64
    if not hard and targets.dtype not in DTYPES:
        raise TypeError(f"targets must be int64 class indices or floating-point probabilities, got {targets.dtype}")
    if targets.shape != tuple(shape[: 1 if hard else 2]):
        raise ValueError(
            f"targets must be class indices [N] or probabilities [N, C] for scores of shape {tuple(shape)}, got "
            f"{targets.dtype} of shape {tuple(targets.shape)}"
        )
    if targets.device != device:
        raise ValueError(f"targets must be on {device}, where the scores are, got {targets.device}")
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, int | float):
        raise TypeError(f"label_smoothing must be a number, got {type(label_smoothing).__name__}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        got = repr(reduction) if isinstance(reduction, str) else type(reduction).__name__
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {got}")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index must be an int, got {type(ignore_index).__name__}")
    if abs(ignore_index) > INT64_MAX:
        raise ValueError(f"ignore_index must be an int64, got {ignore_index}")
    if hard and targets.device.type == "cpu" and is_readable(targets):
        outside = ((targets < 0) | (targets >= shape[1])) & (targets != ignore_index)
        if outside.any():
            raise ValueError(
                f"targets must be class indices from 0 to {shape[1] - 1} or ignore_index ({ignore_index}), got "
                f"{targets[outside][0].item()}"
            )


def cross_entropy(log_weights: Tensor, targets: Tensor, *, ignore_index: int, **options: Any) -> Tensor:
    """``torch.nn.functional.cross_entropy``, in float32 for half precision."""
    logits = log_weights.to(compute_dtype(log_weights))
    if targets.is_floating_point():
        targets, ignore_index = targets.to(logits.dtype), -100  # torch allows no other
    return F.cross_entropy(logits, targets, ignore_index=ignore_index, **options)


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
    """Loss of ``weights``, the entmax of ``scores`` [N, C] at one ``alpha``; the rest as for ``Reweighting.loss``."""
    hard = not targets.is_floating_point()
    counted = targets != ignore_index if hard else scores.new_ones(len(scores), dtype=torch.bool)
    if hard:
        targets = targets.where(counted, 0)
    if label_smoothing:
        if hard:  # not F.one_hot, which reads the values and so cannot be traced
            targets = targets.unsqueeze(-1) == torch.arange(scores.shape[-1], device=scores.device)
        targets = targets.to(scores.dtype) * (1 - label_smoothing) + label_smoothing / scores.shape[-1]
    elif not hard:
        targets = targets.to(scores.dtype)
    losses = fenchel_young_of_rows(scores, weights, targets, alpha).where(counted, 0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / counted.sum()


def fenchel_young_of_rows(
    scores: Tensor, weights: Tensor, targets: Tensor, alpha: float | Tensor, by_norm: bool = False
) -> Tensor:
    """Losses [N] of scores and their weights [N, C]; targets are class indices [N] or probabilities [N, C].

    Args:
        alpha: a number, or a tensor [] or [N, 1].
        by_norm: the weights are those of normmax, and the entropy is 1 - ||p||_alpha; alpha gets no gradient.
    """
    # torch's own differentiation gives the same at a higher cost: the derivatives through the weights cancel. Targets
    # get a gradient only from it.
    if is_transformed() or targets.requires_grad:
        return _of_rows(scores, weights, targets, alpha, by_norm)
    losses: Tensor = _FenchelYoung.apply(scores, weights, targets, alpha, by_norm)
    return losses


def _of_rows(scores: Tensor, weights: Tensor, targets: Tensor, alpha: float | Tensor, by_norm: bool) -> Tensor:
    entropy = one_less_norm if by_norm else tsallis.entropy
    # p - y sums to zero, so the scores may be shifted; the bound avoids 0 * -inf if the shift overflows.
    z = (scores - scores.amax(-1, keepdim=True)).clamp(min=torch.finfo(scores.dtype).min)
    if targets.is_floating_point():
        linear = ((weights - targets) * z).sum(-1) - entropy(targets, alpha)
    else:
        linear = (weights * z).sum(-1) - z.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return linear + entropy(weights, alpha)


def one_less_norm(weights: Tensor, alpha: float | Tensor) -> Tensor:
    """1 - ||p||_alpha over the last dimension; a tensor ``alpha`` is [] or [..., 1]."""
    return (1 - weights.pow(alpha).sum(-1, keepdim=True).pow(1 / alpha)).squeeze(-1)


def _by_blocks(scores: Tensor, weights: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """The losses at alpha 1.5 or 2, in few passes over blocks of rows that stay in the cache; not differentiable.

    sum_i p_i (z_i - c p_i^(alpha - 1)) + c - z_y,      c = 1 / (alpha (alpha - 1)).
    """
    c = 1 / (alpha * (alpha - 1))
    losses = []
    blocks = (tensor.split(max(1, BLOCK // scores.shape[-1])) for tensor in (scores, weights, targets))
    for x, p, y in zip(*blocks, strict=True):
        z = x - x.amax(-1, keepdim=True)
        of_target = z.gather(-1, y.unsqueeze(-1)).squeeze(-1)
        # clamped, because square roots of a vector with zeros take six times as long
        power = p if alpha == 2 else p.clamp(min=torch.finfo(p.dtype).tiny).sqrt_()
        of_weights = z.sub_(power, alpha=c).mul_(p).sum(-1)
        losses.append(of_weights + c - of_target)
    return torch.cat(losses)


class _FenchelYoung(torch.autograd.Function):
    """The loss of each row. The weights are an input so that second derivatives pass through them."""

    @staticmethod
    def forward(scores: Tensor, weights: Tensor, targets: Tensor, alpha: float | Tensor, by_norm: bool) -> Tensor:
        is_hard_on_cpu = not targets.is_floating_point() and scores.device.type == "cpu" and is_readable(scores)
        if is_hard_on_cpu and not by_norm and not isinstance(alpha, Tensor) and alpha in (1.5, 2):
            losses = _by_blocks(scores, weights, targets, alpha)
            if losses.isfinite().all():  # not if a weight of zero was multiplied by an infinity
                return losses
        return _of_rows(scores, weights, targets, alpha, by_norm)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weights, targets, alpha, _ = inputs
        is_tensor = isinstance(alpha, Tensor)
        ctx.alpha = None if is_tensor else alpha
        ctx.save_for_backward(weights, targets, *([alpha] if is_tensor else []))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        weights, targets, *rest = ctx.saved_tensors
        alpha = rest[0] if rest else ctx.alpha
        hard = not targets.is_floating_point()
        grad_scores = grad_alpha = None
        if ctx.needs_input_grad[0]:
            column = grad.unsqueeze(-1)
            if hard:
                grad_scores = (column * weights).scatter_add_(-1, targets.unsqueeze(-1), -column)
            else:
                grad_scores = column * (weights - targets)
        if ctx.needs_input_grad[3]:
            slope = tsallis.entropy_slope(weights, alpha)
            if not hard:
                slope = slope - tsallis.entropy_slope(targets, alpha)
            grad_alpha = (grad * slope).unsqueeze(-1).sum_to_size(alpha.shape)
        return grad_scores, None, None, grad_alpha, None
