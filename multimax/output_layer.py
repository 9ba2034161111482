"""The loss of an output layer from hidden states and targets, without forming the logits where the function allows."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax import kernels
from multimax.formulas.losses import check_loss_arguments
from multimax.formulas.multimax import Order, check_parameters, has_kernel, order_of
from multimax.formulas.rows import autocast_dtype, autocast_unites, check_floating, compute_dtype
from multimax.formulas.torch_private import tell_flop_counters
from multimax.kernels import linear_cross_entropy as chunked
from multimax.kernels.row_kernels import MultiMax, Softmax
from multimax.reweight import Reweighting
from multimax.reweight._base import IN_LOSS, may_bypass

Modulator = tuple[Tensor, Tensor, Order]


def linear_loss(
    reweight: Reweighting,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """``reweight.loss`` of the scores hidden [N, dim] @ weight [V, dim]^T + bias [V]; options as for ``loss``.

    The scores [N, V] are never held for softmax, MultiMax and modules with a ``linear_loss`` of their own. Other
    functions, and modules that ``may_bypass`` refuses, get the scores in at least float32.
    """
    options: Any = {"label_smoothing": label_smoothing, "reduction": reduction, "ignore_index": ignore_index}
    if may_bypass(reweight, "linear_loss", IN_LOSS):
        loss = reweight.linear_loss(hidden, weight, bias, targets, **options)
        if loss is not None:
            return loss
    if may_bypass(reweight, "row_kernel", IN_LOSS) and type(reweight).loss is Reweighting.loss:
        match reweight.row_kernel():
            case Softmax():
                return linear_cross_entropy(hidden, weight, targets, None, bias, **options)
            case MultiMax(ranges, ts, powers) if ts.dim() == 1:
                modulator = ranges, ts, order_of(powers)
                return linear_cross_entropy(hidden, weight, targets, modulator, bias, **options)
    scores = F.linear(hidden, weight, bias)
    return reweight.loss(scores.to(compute_dtype(scores)), targets, **options)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    modulator: Modulator | None = None,
    bias: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """Cross-entropy of seglu(hidden @ weight^T + bias), as defined by ``torch.nn.functional.cross_entropy``.

    Only the logits of a chunk of rows are held at a time (``multimax.kernels.linear_cross_entropy``), except under
    torch.func's transforms, forward-mode differentiation and torch.export. Matrix products are in the dtype of
    ``hidden`` or of autocast; everything else, and the result, is in at least float32. Nothing is computed for tensors
    that require no gradient. It can be differentiated once; torch.func.hessian and the like work.

    Args:
        hidden: floating point [N, dim]. Ignored rows may hold anything; their gradient is zero.
        weight: [V, dim] in the dtype of ``hidden``.
        targets: class indices int64 [N], or probabilities in floating point [N, V], which get no gradient.
        modulator: (ranges [k], ts [k], order) as for ``multimax.reweight.seglu``; None for the logits as they are.
        bias: [V] in the dtype of ``hidden``.
        label_smoothing: share of the targets' mass that is spread evenly over the classes, from 0 to 1.
        reduction: "mean", "sum" or "none" ([N]). With "none" the backward recomputes the logits.
        ignore_index: class index of rows that are left out of the sum and the mean.

    Raises:
        TypeError, ValueError: an argument that does not fit, in one line that names it; probabilities that require a
            gradient; on a CPU, a class index that is neither ``ignore_index`` nor from 0 to V - 1.
        RuntimeError: such an index in a compiled graph. On a GPU it makes the loss and gradients of its row NaN.
    """
    ranges, ts, powers = _checked(hidden, weight, targets, modulator, bias, label_smoothing, reduction, ignore_index)
    if dtype := autocast_dtype(hidden):
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if targets.is_floating_point():
        counted = torch.ones_like(targets[:, 0], dtype=torch.bool)
    else:
        counted = targets != ignore_index
        hidden, targets = hidden.where(counted.unsqueeze(-1), 0), targets.where(counted, 0)
    counts = counted.to(compute_dtype(hidden))
    if reduction == "mean":
        counts = counts / counts.sum().clamp(min=1)
    tensors, differentiable = (hidden, weight, bias, targets, ranges, ts), (hidden, weight, bias, ranges, ts)
    by_operators = kernels.is_ordinary(*(t for t in differentiable if t is not None))
    wanted = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in differentiable]
    if by_operators:
        tell_flop_counters(chunked.FLOPS)
    # In float16 the gradients of a loss that is not scaled yet would underflow.
    if by_operators and any(wanted) and reduction != "none" and hidden.dtype != torch.float16:
        wanted = [*wanted[:3], wanted[3] or wanted[4]]
        loss = torch.ops.multimax.linear_cross_entropy(*tensors, counts, powers, label_smoothing, wanted)[0]
    else:
        of_rows = torch.ops.multimax.linear_cross_entropy_losses if by_operators else chunked.by_whole_logits
        losses = of_rows(*tensors, powers, label_smoothing)
        if reduction == "none":
            return losses.where(counted, 0)
        loss = (losses * counts).sum()
    return loss.masked_fill(~counted.any(), torch.nan) if reduction == "mean" else loss


def _checked(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    modulator: Modulator | None,
    bias: Tensor | None,
    label_smoothing: float,
    reduction: str,
    ignore_index: int,
) -> tuple[Tensor | None, Tensor | None, tuple[int, ...]]:
    """Ranges, ts and powers of the hinges; raises TypeError or ValueError, in one line, for wrong arguments."""
    shapes = [("hidden", hidden, "[N, dim]"), ("weight", weight, "[V, dim]")]
    for name, tensor, shape in shapes if bias is None else [*shapes, ("bias", bias, "[V]")]:
        check_floating(name, tensor)
        if tensor.dim() != shape.count(",") + 1:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
        if tensor.device != hidden.device:
            raise ValueError(f"{name} must be on {hidden.device}, where the hidden states are, got {tensor.device}")
        if tensor.dtype != hidden.dtype and not autocast_unites(hidden, tensor):
            raise TypeError(f"{name} must be in the dtype of hidden, {hidden.dtype}, got {tensor.dtype}")
    (n, dim), v = hidden.shape, len(weight)
    if weight.shape[1] != dim:
        raise ValueError(f"hidden and weight must have the same last dimension, got {dim} and {weight.shape[1]}")
    if v == 0:
        raise ValueError("weight must have at least one class, got none")
    if bias is not None and len(bias) != v:
        raise ValueError(f"bias must have one entry for each of the {v} classes, got {len(bias)}")
    check_loss_arguments((n, v), hidden.device, targets, label_smoothing, reduction, ignore_index)
    if targets.requires_grad:
        raise ValueError("targets get no gradient here: detach them, or take F.cross_entropy of the logits")
    if modulator is None:
        return None, None, ()
    if not isinstance(modulator, tuple | list) or len(modulator) != 3:
        raise TypeError(f"modulator must be (ranges, ts, order), got {type(modulator).__name__}")
    ranges, ts, order = modulator
    powers = check_parameters(ranges, ts, order, hidden.device)
    if not has_kernel(powers):
        raise ValueError(f"modulator must be of order 1, 2 or 'second_only' here, got {order}: take MultiMax.loss")
    if ranges.dim() != 1 or ts.dim() != 1:
        raise ValueError(f"ranges and ts must be [k], got {tuple(ranges.shape)} and {tuple(ts.shape)}")
    return ranges, ts, powers
