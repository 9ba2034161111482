"""Cross-entropy of SegLU(hidden @ weight^T + bias) in chunks of rows, so that the logits [N, V] never exist.

Logits, losses and gradients of a chunk are computed in one pass, and the next chunk reuses its memory. Nothing is
computed twice, as in Liger's fused linear cross-entropy (Hsu et al. 2024, arXiv 2410.10989).

For a row with logits x, y = SegLU(x), p = softmax(y), target probabilities q and weight w in the total loss,

    L = w sum_j q_j (logsumexp(y) - y_j),      dy = w (p sum q - q),      dx = dy SegLU'(x).

On a GPU one Triton kernel (``triton.cross_entropy``) computes everything between a chunk's matrix products. The
gradients of SegLU's parameters are sums over all entries, however small their probability, in a fixed order, so they
have the same bits in every run.

The operator ``linear_cross_entropy`` returns the sum of the losses, each times its count (w), and the gradients of that
sum. ``linear_cross_entropy_losses`` returns the loss of each row; its backward, which knows the counts, recomputes the
logits. Both take hidden [N, dim], weight [V, dim], bias [V] or None, targets int64 [N] from 0 to V - 1 or floating
point [N, V], ranges and ts [k] or None with the powers of SegLU's k hinges, and label_smoothing. Losses, counts and
sums of half-precision products are in at least float32 (below: the compute dtype). Given dual numbers, which may reach
a graph compiled without them, they compute all logits at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax import kernels
from multimax.formulas.multimax import seglu, seglu_gradients
from multimax.formulas.rows import compute_dtype
from multimax.formulas.torch_private import are_dual, tell_flop_counters
from multimax.kernels.operators import gradients, make_differentiable

# Logits in a chunk. On a CPU, matrix products of 128 rows took one and a half times as long per row as those of 512,
# and more rows gained nothing; each chunk passes over the gradient of the weights once. On an H100, 2^28 to 2^30 were
# within a tenth of each other, larger being faster.
CHUNK = {"cpu": 2**24, "cuda": 2**29}
MIN_ROWS = 256
# Logits that are processed together between the matrix products: on a CPU, as many as stay in a core's cache.
BLOCK = {"cpu": 2**17, "cuda": 2**25}

_ROWS = "Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor? ranges, Tensor? ts"
_library = torch.library.Library("multimax", "FRAGMENT")
_library.define(
    f"linear_cross_entropy({_ROWS}, Tensor counts, int[] powers, float label_smoothing, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(f"linear_cross_entropy_losses({_ROWS}, int[] powers, float label_smoothing) -> Tensor")


def loss_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ranges: Tensor | None,
    ts: Tensor | None,
    counts: Tensor,
    powers: Sequence[int],
    label_smoothing: float,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """sum_i counts_i loss_i, and its gradients for hidden, weight, bias, ranges and ts.

    ``wanted`` says whether hidden, weight, bias and the two parameters need one; unwanted gradients are empty.
    """
    wants_hidden, wants_weight, wants_bias, wants_parameters = wanted
    total = counts.new_zeros((), dtype=torch.float64)
    modulator = Modulator.of(ranges, ts, powers, hidden)
    v, in_one = len(weight), kernels.path(hidden) == "triton"
    if in_one:
        weight, bias = _padded(weight), None if bias is None else _padded(bias)
    differentiate: Callable[..., tuple[Tensor, Tensor]] = partial(_by_triton, v) if in_one else _by_tensor_operations
    grad_hidden = hidden.new_empty(hidden.shape if wants_hidden else 0)
    grad_weight = counts.new_zeros(weight.shape if wants_weight else 0)
    grad_bias = counts.new_zeros(len(weight) if wants_bias else 0)
    sums = counts.new_zeros(2 * len(powers), dtype=torch.float64)
    with torch.autocast(hidden.device.type, enabled=False):
        for rows, logits in _chunks(hidden, weight, bias):
            for part, block in [(rows, logits)] if in_one else _blocks(rows, logits):
                losses, grad_parameters = differentiate(block, targets[part], counts[part], modulator, label_smoothing)
                total += losses @ counts[part]
                sums += grad_parameters
            if wants_hidden:
                torch.mm(logits, weight, out=grad_hidden[rows])
            if wants_weight:
                _add_product(logits.T, hidden[rows], grad_weight)
            if wants_bias:
                grad_bias += logits.sum(0, dtype=grad_bias.dtype)
    grad_ranges, grad_ts = sums[: len(powers)], sums[len(powers) :]
    if ranges is not None:
        grad_ranges = grad_ranges.view(-1, len(ranges)).sum(0)  # if the orders share them
    k = None if wants_parameters else 0
    return (
        total.to(counts.dtype),
        grad_hidden,
        grad_weight[:v].to(weight.dtype),
        grad_bias[:v].to(weight.dtype),
        grad_ranges[:k].to(counts.dtype, copy=True),
        grad_ts[:k].to(counts.dtype, copy=True),
    )


def _add_product(a: Tensor, b: Tensor, to: Tensor) -> None:
    """``to`` += a b, accumulated in the dtype of ``to``."""
    if a.dtype == to.dtype:
        to.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(to, a, b, to.dtype, out=to)
    else:
        to += a @ b


def losses(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ranges: Tensor | None,
    ts: Tensor | None,
    powers: Sequence[int],
    label_smoothing: float,
) -> Tensor:
    """Losses [N] in the compute dtype."""
    found = hidden.new_empty(len(hidden), dtype=compute_dtype(hidden))
    modulator = Modulator.of(ranges, ts, powers, hidden)
    v, in_one = len(weight), kernels.path(hidden) == "triton"
    if in_one:
        weight, bias = _padded(weight), None if bias is None else _padded(bias)
    with torch.autocast(hidden.device.type, enabled=False):
        for rows, logits in _chunks(hidden, weight, bias):
            if in_one:
                of_rows = (logits, targets[rows], found[rows], modulator, label_smoothing)
                found[rows], _ = _by_triton(v, *of_rows, gradients=False)
                continue
            for part, block in _blocks(rows, logits):
                found[part], *_ = _losses(block.to(found.dtype), targets[part], modulator, label_smoothing)
    return found


def by_whole_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ranges: Tensor | None,
    ts: Tensor | None,
    powers: Sequence[int],
    label_smoothing: float,
) -> Tensor:
    """The same as ``losses``, in operations that torch can transform and differentiate any number of times."""
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(compute_dtype(logits))
    modulator = Modulator.of(ranges, ts, powers, hidden)
    if modulator is not None:
        logits = modulator(logits)
    targets = targets.to(logits.dtype) if targets.is_floating_point() else targets
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")


def _chunks(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows and their logits, in memory that the next slice reuses."""
    n, v = len(hidden), len(weight)
    most = max(MIN_ROWS, CHUNK["cpu" if hidden.device.type == "cpu" else "cuda"] // max(v, 1))
    rows = -(-n // max(-(-n // most), 1))  # chunks of equal size
    buffer = hidden.new_empty(rows, v)
    for start in range(0, n, max(rows, 1)):
        part = hidden[start : start + rows]
        logits = buffer[: len(part)]
        if bias is None:
            torch.mm(part, weight.T, out=logits)
        else:
            torch.addmm(bias, part, weight.T, out=logits)
        yield slice(start, start + len(part)), logits


def _blocks(rows: slice, logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the rows, each within a chunk, and their logits."""
    size = BLOCK["cpu"] * torch.get_num_threads() if logits.device.type == "cpu" else BLOCK["cuda"]
    start = rows.start
    for block in logits.split(max(1, size // max(logits.shape[1], 1))):
        yield slice(start, start + len(block)), block
        start += len(block)


def _padded(of_classes: Tensor) -> Tensor:
    """Pad to a multiple of 16 classes: otherwise a GPU's matrix products take up to six times as long."""
    missing = -len(of_classes) % 16
    return F.pad(of_classes, (0,) * (2 * of_classes.dim() - 1) + (missing,)) if missing else of_classes


def _by_triton(
    v: int,
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    modulator: "Modulator | None",
    label_smoothing: float,
    gradients: bool = True,
) -> tuple[Tensor, Tensor]:
    """Losses of the rows and, for their sum weighted by ``counts``, the gradients [2 k] of SegLU's parameters.

    Only the first v columns of ``logits`` are used. Their gradients, if wanted, overwrite them.
    """
    from multimax.kernels.triton.cross_entropy import cross_entropy  # imports Triton

    ranges, ts, powers = (
        (None, None, ()) if modulator is None else (modulator.ranges[0], modulator.ts[0], modulator.powers)
    )
    found, grad_parameters = cross_entropy(logits, v, targets, counts, ranges, ts, powers, label_smoothing, gradients)
    return found, grad_parameters.sum(0, dtype=torch.float64).flatten()


def _by_tensor_operations(
    logits: Tensor, targets: Tensor, counts: Tensor, modulator: "Modulator | None", label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The same in tensor operations, with the row kernels for SegLU on a CPU."""
    x, of_row = logits.to(counts.dtype), counts.unsqueeze(-1)
    found, grad_logits, statistics = _losses(x, targets, modulator, label_smoothing)
    if modulator is None:
        grad_parameters = counts.new_zeros(0, dtype=torch.float64)
        grad_logits.mul_(of_row)
    else:
        grad_logits, grad_parameters = modulator.gradients(grad_logits, of_row, x, statistics)
    logits.copy_(grad_logits)
    return found, grad_parameters


def _losses(
    x: Tensor, targets: Tensor, modulator: "Modulator | None", label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Losses [n] of logits x [n, V], gradients of their sum for SegLU(x), and the row kernel's statistics."""
    statistics = None
    if modulator is not None and modulator.compiled:
        grad_y, statistics = modulator.weights(x)
        log_sum = (statistics[0] - statistics[1].log()).unsqueeze(-1)
    else:
        y = x if modulator is None else modulator(x)
        grad_y = torch.softmax(y, -1)
        # The largest probability is exact up to rounding, so the exponentials need not be summed again.
        log_sum = (y.amax(-1) - grad_y.amax(-1).log()).unsqueeze(-1)
    hard = not targets.is_floating_point()
    if statistics is not None and (label_smoothing or not hard):
        assert modulator is not None
        y = modulator(x)
    if not hard:
        mass = targets.to(x.dtype) * (1 - label_smoothing) + label_smoothing / x.shape[-1]
        grad_y.mul_(mass.sum(-1, keepdim=True)).sub_(mass)
        return (mass * (log_sum - y)).sum(-1), grad_y, statistics
    targets = targets.unsqueeze(-1)
    of_targets = x.gather(-1, targets) if modulator is None else modulator(x.gather(-1, targets))
    found = (log_sum - of_targets).squeeze(-1)
    if label_smoothing:
        found = (1 - label_smoothing) * found + label_smoothing * (log_sum - y).mean(-1)
        grad_y.sub_(label_smoothing / x.shape[-1])
    grad_y.scatter_add_(-1, targets, grad_y.new_full((), label_smoothing - 1).expand_as(targets))
    return found, grad_y, statistics


class Modulator(NamedTuple):
    """SegLU by its formula or, if ``compiled``, by the row kernels; ranges and ts [1, k] in the compute dtype."""

    ranges: Tensor
    ts: Tensor
    powers: tuple[int, ...]
    compiled: bool

    @classmethod
    def of(cls, ranges: Tensor | None, ts: Tensor | None, powers: Sequence[int], hidden: Tensor) -> "Modulator | None":
        if ranges is None or ts is None:
            return None
        ranges = ranges.repeat(len(powers) // len(ranges))  # if the orders share them
        dtype = compute_dtype(hidden)
        return cls(ranges[None].to(dtype), ts[None].to(dtype), tuple(powers), kernels.path(hidden) == "cpp")

    def __call__(self, x: Tensor) -> Tensor:
        return seglu(x, self.ranges, self.ts, self.powers)

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.multimax.multimax_forward(x, None, self.ranges, self.ts, self.powers)

    def gradients(self, grad_y: Tensor, counts: Tensor, x: Tensor, statistics: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gradients of x and, [2 k], of ranges and ts, for y's gradient ``counts`` [n, 1] times ``grad_y``."""
        if self.compiled:
            # The kernel's dy = p (g - sum p g) is counts grad_y if p is grad_y, whose rows sum to zero, and g counts.
            grad_x, *others = torch.ops.multimax.multimax_backward(
                counts.expand_as(x), x, None, statistics, self.ranges, self.ts, self.powers, grad_y
            )
        else:
            grad_x, *others = seglu_gradients(grad_y.mul_(counts), x, self.ranges, self.ts, self.powers)
        return grad_x, torch.cat(others, -1)[0].double()


def _fake_loss_and_gradients(hidden, weight, bias, targets, ranges, ts, counts, powers, label_smoothing, wanted):
    wants_hidden, wants_weight, wants_bias, wants_parameters = wanted
    return (
        counts.new_empty(()),
        hidden.new_empty(hidden.shape if wants_hidden else 0),
        weight.new_empty(weight.shape if wants_weight else 0),
        weight.new_empty(len(weight) if wants_bias else 0),
        *(counts.new_empty(0 if p is None or not wants_parameters else len(p)) for p in (ranges, ts)),
    )


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.dtypes = _dtypes(inputs)
    ctx.save_for_backward(*output[1:])


def _dtypes(inputs: tuple[Any, ...]) -> list[torch.dtype | None]:
    hidden, weight, bias, _, ranges, ts, *_ = inputs
    return [None if t is None else t.dtype for t in (hidden, weight, bias, ranges, ts)]


def _scale_gradients(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    return _gradients(ctx, (grad.to(found.dtype) * found for found in ctx.saved_tensors), others=4)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.set_materialize_grads(False)
    *tensors, ctx.powers, ctx.label_smoothing = inputs
    ctx.mode = kernels.mode()
    ctx.dtypes = _dtypes(inputs)
    ctx.save_for_backward(*tensors)


def _compute_gradients(ctx: Any, counts: Tensor | None) -> tuple[Tensor | None, ...]:
    if counts is None:
        return (None,) * 8
    if are_dual(counts) and not torch.is_grad_enabled():
        hidden, weight, bias, targets, ranges, ts = ctx.saved_tensors

        def again(hidden: Tensor, weight: Tensor, bias: Tensor, ranges: Tensor, ts: Tensor) -> Tensor:
            return by_whole_logits(hidden, weight, bias, targets, ranges, ts, ctx.powers, ctx.label_smoothing)

        *grads, grad_ranges, grad_ts = gradients(again, (hidden, weight, bias, ranges, ts), counts)
        return *grads, None, grad_ranges, grad_ts, None, None
    hidden, weight, bias, _, ranges, ts, *_ = ctx.needs_input_grad
    wanted = (hidden, weight, bias, ranges or ts)
    tell_flop_counters(FLOPS)
    with kernels.use(ctx.mode):  # autograd may run in another thread
        _, *found = torch.ops.multimax.linear_cross_entropy(
            *ctx.saved_tensors, counts, ctx.powers, ctx.label_smoothing, wanted
        )
    return _gradients(ctx, found, others=2)


def _gradients(ctx: Any, found: Iterable[Tensor], others: int) -> tuple[Tensor | None, ...]:
    """The gradients in the order of the operator's arguments, of which the last ``others`` have none."""
    if torch.is_grad_enabled():
        raise RuntimeError("linear_cross_entropy cannot be differentiated twice; take F.cross_entropy of the logits")
    wanted = [ctx.needs_input_grad[i] for i in (0, 1, 2, 4, 5)]
    hidden, weight, bias, ranges, ts = (
        gradient.to(dtype) if is_wanted else None
        for is_wanted, dtype, gradient in zip(wanted, ctx.dtypes, found, strict=True)
    )
    return hidden, weight, bias, None, ranges, ts, *(None,) * others


def _whole_loss(*arguments: Any) -> tuple[Tensor, ...]:
    counts, *options, _ = arguments[6:]
    loss = (by_whole_logits(*arguments[:6], *options) * counts).sum()
    return loss, *_fake_loss_and_gradients(*arguments)[1:]


def _flops_of_losses(hidden: Tensor, weight: Tensor, *_: Any, out_val: Any = None) -> int:
    return 2 * hidden.numel() * len(weight)


def _flops_with_gradients(hidden: Tensor, weight: Tensor, *others: Any, out_val: Any = None) -> int:
    wants_hidden, wants_weight, *_ = others[-1]
    return _flops_of_losses(hidden, weight) * (1 + wants_hidden + wants_weight)


FLOPS: dict[Any, Any] = {
    torch.ops.multimax.linear_cross_entropy: _flops_with_gradients,
    torch.ops.multimax.linear_cross_entropy_losses: _flops_of_losses,
}


_library.impl("linear_cross_entropy", loss_and_gradients, "CompositeExplicitAutograd")
_library.impl("linear_cross_entropy_losses", losses, "CompositeExplicitAutograd")
torch.library.register_fake("multimax::linear_cross_entropy", _fake_loss_and_gradients)
torch.library.register_fake(
    "multimax::linear_cross_entropy_losses",
    lambda hidden, *_: hidden.new_empty(len(hidden), dtype=compute_dtype(hidden)),
)
make_differentiable(_library, "linear_cross_entropy", _save_gradients, _scale_gradients, _whole_loss)
make_differentiable(_library, "linear_cross_entropy_losses", _save_inputs, _compute_gradients, by_whole_logits)
