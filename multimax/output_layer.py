"""The loss of an output layer, from hidden states to targets, without its logits where the function allows it."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax.formulas.multimax import Order, powers_of
from multimax.formulas.rows import compute_dtype
from multimax.kernels import linear_cross_entropy as chunked
from multimax.kernels.row_kernels import MultiMax, Softmax
from multimax.reweight import Reweighting
from multimax.reweight._base import IN_LOSS, may_bypass


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
    """``reweight.loss`` of the scores hidden [N, dim] @ weight [V, dim]^T + bias [V], and its other arguments.

    Softmax's and MultiMax's never hold the scores [N, V], nor does a ``Reweighting.linear_loss`` of the module's own;
    other functions get them, in float32 at least, and so does a module that ``may_bypass`` tells to call.
    """
    options: dict[str, Any] = {
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "ignore_index": ignore_index,
    }
    if may_bypass(reweight, "linear_loss", IN_LOSS):
        loss = reweight.linear_loss(hidden, weight, bias, targets, **options)
        if loss is not None:
            return loss
    if type(reweight).loss is Reweighting.loss and may_bypass(reweight, "row_kernel", IN_LOSS):
        match reweight.row_kernel():
            case Softmax():
                return linear_cross_entropy(hidden, weight, targets, None, bias, **options)
            case MultiMax(ranges, ts, powers) if ts.dim() == 1:
                order: Order = 2 if len(powers) == 4 else 1 if powers[0] == 1 else "second_only"
                return linear_cross_entropy(hidden, weight, targets, (ranges, ts, order), bias, **options)
    scores = F.linear(hidden, weight, bias)
    return reweight.loss(scores.to(compute_dtype(scores)), targets, **options)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    modulator: tuple[Tensor, Tensor, Order] | None = None,
    bias: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """Cross-entropy of seglu(hidden @ weight^T + bias), as ``torch.nn.functional.cross_entropy`` has it.

    There are never more logits than those of a chunk of rows; see ``multimax.kernels.linear_cross_entropy``. Matrix
    products are in the dtype of ``hidden``, or autocast's; everything else, and the result, in float32 at least. It
    can be differentiated once.

    Args:
        hidden: floating point [N, dim].
        weight: [V, dim] in the dtype of ``hidden``.
        targets: class indices int64 [N], or probabilities in floating point [N, V], which get no gradient.
        modulator: (ranges [k], ts [k], order) as ``multimax.reweight.seglu`` takes them; None: logits as they are.
        bias: [V] in the dtype of ``hidden``.
        label_smoothing: share of the targets' mass that is spread evenly over the classes.
        reduction: "mean", "sum" or "none" ([N]). With "none" the backward computes the logits anew.
        ignore_index: class index whose rows count neither in the sum nor in the mean.

    Raises:
        ValueError: an unknown ``reduction`` or order; targets, or parameters of the modulator, of the wrong shape;
            probabilities that want a gradient.
    """
    hard = not targets.is_floating_point()
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if targets.shape != (hidden.shape[:1] if hard else (len(hidden), len(weight))):
        raise ValueError(
            f"targets must be class indices [N] or probabilities [N, V] for hidden states {tuple(hidden.shape)} and "
            f"weights {tuple(weight.shape)}, got {targets.dtype} {tuple(targets.shape)}"
        )
    if targets.requires_grad:
        raise ValueError("targets get no gradient here: detach them, or take F.cross_entropy of the logits")
    ranges, ts, powers = _checked(modulator)
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    counted = targets != ignore_index if hard else torch.ones_like(hidden[:, 0], dtype=torch.bool)
    targets = targets.where(counted, 0) if hard else targets
    tensors = (hidden, weight, bias, targets, ranges, ts)
    counts = counted.to(compute_dtype(hidden))
    if reduction == "mean":
        counts = counts / counts.sum().clamp(min=1)
    trained = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    # float16 has no room for the gradients of a loss that is not scaled yet.
    if trained and reduction != "none" and hidden.dtype != torch.float16:
        loss = chunked.loss_and_gradients(*tensors, counts, powers, label_smoothing)[0]
    else:
        loss = chunked.losses(*tensors, powers, label_smoothing).where(counted, 0)
        if reduction != "none":
            loss = (loss * counts).sum()
    return loss.masked_fill(~counted.any(), torch.nan) if reduction == "mean" else loss


def _checked(
    modulator: tuple[Tensor, Tensor, Order] | None,
) -> tuple[Tensor | None, Tensor | None, tuple[int, ...]]:
    """Ranges, ts and powers of the hinges."""
    if modulator is None:
        return None, None, ()
    ranges, ts, order = modulator
    powers = powers_of(order)
    if ts.shape != (len(powers),) or ranges.shape not in ((2,), (len(powers),)):
        raise ValueError(
            f"the modulator of order {order} takes {len(powers)} ts and 2 or {len(powers)} ranges, got "
            f"{tuple(ts.shape)} and {tuple(ranges.shape)}"
        )
    return ranges, ts, powers
