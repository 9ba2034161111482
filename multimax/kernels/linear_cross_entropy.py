"""Cross-entropy of SegLU(hidden @ weight^T + bias) in chunks of rows, so that the logits [N, V] never exist.

A chunk has its logits, its losses and in the same pass its gradients; then the next one takes its place. Nothing is
computed twice, as in Liger's fused linear cross-entropy (Hsu et al. 2024, arXiv 2410.10989).

With y the modulated logits x of a row, p = softmax(y), q the mass of its targets and w what its loss counts,

    L = w sum_j q_j (logsumexp(y) - y_j),      dy = w (p sum q - q),      dx = dy SegLU'(x).

On a GPU one Triton kernel (``triton.cross_entropy``) does all that lies between a chunk's matrix products. SegLU's
parameters get sums over all entries in a fixed order, the same bits in each run; no small probability is left out of
them.

    multimax::linear_cross_entropy(...) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)
        the sum of the losses, each times its count, and that sum's gradients
    multimax::linear_cross_entropy_losses(...) -> Tensor
        the loss of each row; its backward, which alone knows the counts, computes the logits anew

Both take hidden [N, dim], weight [V, dim], bias [V] or None, targets int64 [N] or floating point [N, V], ranges and ts
[k] or None and the powers of SegLU's hinges (k of them, or none), and label_smoothing. Losses, counts, and the sums of
products that are of half precision, are in float32 at least (below: the compute dtype).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from multimax import kernels
from multimax.kernels import operators  # noqa: F401 the row kernels' names

# Logits of a chunk. On a CPU the matrix products of 128 rows took half as long again per row as those of 512, and more
# rows gained nothing; the gradient of the weights is gone through once per chunk. On an H100 2^28 to 2^30 were within a
# tenth of each other, the larger the faster.
CHUNK = {"cpu": 2**24, "cuda": 2**29}
MIN_ROWS = 256
# Logits that go together through what is between the matrix products: on a CPU as many as stay in a core's cache.
BLOCK = {"cpu": 2**17, "cuda": 2**25}


@torch.library.custom_op("multimax::linear_cross_entropy", mutates_args=())
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """sum_i counts_i loss_i, and its gradients by hidden, weight, bias, ranges and ts; an empty one of what is None."""
    total = counts.new_zeros((), dtype=torch.float64)
    by_hidden = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    sums = [counts.new_zeros(2 * len(powers), dtype=torch.float64)]
    seglu = SegLU.of(ranges, ts, powers, hidden)
    v, in_one = len(weight), kernels.path(hidden) == "triton"
    if in_one:
        weight, bias = _padded(weight), None if bias is None else _padded(bias)
    differentiate: Callable[..., tuple[Tensor, Tensor]] = partial(_by_triton, v) if in_one else _by_tensor_operations
    by_weight = counts.new_zeros(weight.shape)
    by_bias = counts.new_zeros(0 if bias is None else len(weight))
    with torch.autocast(hidden.device.type, enabled=False):
        for rows, logits in _chunks(hidden, weight, bias):
            for part, block in [(rows, logits)] if in_one else _blocks(rows, logits):
                losses, by_parameters = differentiate(block, targets[part], counts[part], seglu, label_smoothing)
                total += losses @ counts[part]
                sums.append(by_parameters)
            torch.mm(logits, weight, out=by_hidden[rows])
            if logits.dtype == by_weight.dtype:
                by_weight.addmm_(logits.T, hidden[rows])
            elif logits.is_cuda:
                torch.addmm(by_weight, logits.T, hidden[rows], by_weight.dtype, out=by_weight)
            else:
                by_weight += logits.T @ hidden[rows]
            if bias is not None:
                by_bias += logits.sum(0, dtype=by_bias.dtype)
    by_parameters = torch.stack(sums).sum(0)
    by_ranges, by_ts = by_parameters[: len(powers)], by_parameters[len(powers) :]
    if ranges is not None:
        by_ranges = by_ranges.view(-1, len(ranges)).sum(0)  # the orders may share them
    return (
        total.to(counts.dtype),
        by_hidden,
        by_weight[:v].to(weight.dtype),
        by_bias[:v].to(weight.dtype),
        by_ranges.to(counts.dtype, copy=True),
        by_ts.to(counts.dtype, copy=True),
    )


@torch.library.custom_op("multimax::linear_cross_entropy_losses", mutates_args=())
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
    found = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
    seglu = SegLU.of(ranges, ts, powers, hidden)
    v, in_one = len(weight), kernels.path(hidden) == "triton"
    if in_one:
        weight, bias = _padded(weight), None if bias is None else _padded(bias)
    with torch.autocast(hidden.device.type, enabled=False):
        for rows, logits in _chunks(hidden, weight, bias):
            if in_one:
                of_rows = (logits, targets[rows], found[rows], seglu, label_smoothing)
                found[rows], _ = _by_triton(v, *of_rows, gradients=False)
                continue
            for part, block in _blocks(rows, logits):
                found[part], *_ = _losses(block.to(found.dtype), targets[part], seglu, label_smoothing)
    return found


def _chunks(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows and their logits, which are the next slice's memory."""
    n, v = len(hidden), len(weight)
    most = max(MIN_ROWS, CHUNK["cpu" if hidden.device.type == "cpu" else "cuda"] // max(v, 1))
    rows = -(-n // max(-(-n // most), 1))  # chunks alike
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
    """Slices of a chunk's rows, counted from the first of all rows, and their logits."""
    size = BLOCK["cpu"] * torch.get_num_threads() if logits.device.type == "cpu" else BLOCK["cuda"]
    start = rows.start
    for block in logits.split(max(1, size // max(logits.shape[1], 1))):
        yield slice(start, start + len(block)), block
        start += len(block)


def _padded(of_classes: Tensor) -> Tensor:
    """To a multiple of 16 classes: for others a GPU's matrix products take up to six times as long."""
    missing = -len(of_classes) % 16
    return F.pad(of_classes, (0,) * (2 * of_classes.dim() - 1) + (missing,)) if missing else of_classes


def _by_triton(
    v: int,
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    seglu: "SegLU | None",
    label_smoothing: float,
    gradients: bool = True,
) -> tuple[Tensor, Tensor]:
    """Losses of the rows, and of their sum, each times its count, the gradients by SegLU's parameters, [2 k].

    ``logits``, of which the first v columns count, become the gradients by them, if these are wanted.
    """
    from multimax.kernels.triton.cross_entropy import cross_entropy  # imports Triton

    ranges, ts, powers = (None, None, ()) if seglu is None else seglu[:3]
    found, by_parameters = cross_entropy(logits, v, targets, counts, ranges, ts, powers, label_smoothing, gradients)
    return found, by_parameters.sum(0, dtype=torch.float64).flatten()


def _by_tensor_operations(
    logits: Tensor, targets: Tensor, counts: Tensor, seglu: "SegLU | None", label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The same by operations on tensors and, of SegLU on a CPU, by the row kernels."""
    x, of_row = logits.to(counts.dtype), counts.unsqueeze(-1)
    found, by_logits, statistics = _losses(x, targets, seglu, label_smoothing)
    if seglu is None:
        by_parameters = counts.new_zeros(0, dtype=torch.float64)
        by_logits.mul_(of_row)
    else:
        by_logits, by_parameters = seglu.gradients(by_logits, of_row, x, statistics)
    logits.copy_(by_logits)
    return found, by_parameters


def _losses(
    x: Tensor, targets: Tensor, seglu: "SegLU | None", label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Losses [n] of logits x [n, V], the gradients of their sum by the modulated logits, and what SegLU's want."""
    statistics = None
    if seglu is not None and seglu.compiled:
        by_y, statistics = seglu.weights(x)
        log_sum = (statistics[0] - statistics[1].log()).unsqueeze(-1)
    else:
        y = x if seglu is None else seglu(x)
        by_y = torch.softmax(y, -1)
        # The largest probability is known to the last digits: the sum of the exponentials need not be taken again.
        log_sum = (y.amax(-1) - by_y.amax(-1).log()).unsqueeze(-1)
    hard = not targets.is_floating_point()
    if statistics is not None and (label_smoothing or not hard):
        assert seglu is not None
        y = seglu(x)
    if not hard:
        mass = targets.to(x.dtype) * (1 - label_smoothing) + label_smoothing / x.shape[-1]
        by_y.mul_(mass.sum(-1, keepdim=True)).sub_(mass)
        return (mass * (log_sum - y)).sum(-1), by_y, statistics
    targets = targets.unsqueeze(-1)
    of_targets = x.gather(-1, targets) if seglu is None else seglu(x.gather(-1, targets))
    found = (log_sum - of_targets).squeeze(-1)
    if label_smoothing:
        found = (1 - label_smoothing) * found + label_smoothing * (log_sum - y).mean(-1)
        by_y.sub_(label_smoothing / x.shape[-1])
    by_y.scatter_add_(-1, targets, by_y.new_full((), label_smoothing - 1).expand_as(targets))
    return found, by_y, statistics


class SegLU(NamedTuple):
    """The modulator by tensor operations or, ``compiled``, by the row kernels."""

    ranges: Tensor
    ts: Tensor
    powers: tuple[int, ...]
    compiled: bool

    @classmethod
    def of(cls, ranges: Tensor | None, ts: Tensor | None, powers: Sequence[int], hidden: Tensor) -> "SegLU | None":
        if ranges is None or ts is None:
            return None
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        ranges = ranges.repeat(len(powers) // len(ranges))  # the orders may share them
        return cls(ranges.to(dtype), ts.to(dtype), tuple(powers), kernels.path(hidden) == "cpp")

    def __call__(self, x: Tensor) -> Tensor:
        y = x.clone()
        for i, power in enumerate(self.powers):
            h = self.hinge(x, i)
            y.add_(h * self.ts[i]) if power == 1 else y.addcmul_(h, h * self.ts[i])
        largest = torch.finfo(x.dtype).max
        return y.clamp_(-largest, largest)

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.multimax.multimax_forward(x, None, self.ranges[None], self.ts[None], self.powers)

    def gradients(self, by_y: Tensor, counts: Tensor, x: Tensor, statistics: Tensor | None) -> tuple[Tensor, Tensor]:
        """Those by x and, [2 k], by ranges and ts, of ``counts`` [n, 1] times what has the gradient ``by_y``."""
        if self.compiled:
            # The kernel's dy = p (g - sum p g) is counts by_y with by_y in the place of p, since its rows sum to zero.
            by_x, *others = torch.ops.multimax.multimax_backward(
                counts.expand_as(x), x, None, statistics, self.ranges[None], self.ts[None], self.powers, by_y
            )
            return by_x, torch.cat(others, -1)[0].double()
        by_y.mul_(counts)
        slope = torch.ones_like(x)
        by_ranges, by_ts = [], []
        for i, power in enumerate(self.powers):
            h = self.hinge(x, i)
            by_ts.append((by_y * h).mul_(h).sum() if power == 2 else (by_y * h).sum())
            step = h.mul_(2) if power == 2 else h.sign_()
            direction = -self.ts[i] if i % 2 == 0 else self.ts[i]
            by_ranges.append(-direction * (by_y * step).sum())
            slope.add_(step.mul_(direction))
        return by_y.mul_(slope), torch.stack([*by_ranges, *by_ts]).double()

    def hinge(self, x: Tensor, i: int) -> Tensor:
        """Left of its range for even i, right of it for odd i; bounded as ``multimax.reweight.seglu`` bounds it."""
        h = self.ranges[i] - x if i % 2 == 0 else x - self.ranges[i]
        return h.clamp_(0, torch.finfo(x.dtype).max ** 0.4)


@loss_and_gradients.register_fake
def _(hidden, weight, bias, targets, ranges, ts, counts, powers, label_smoothing):
    return (
        counts.new_empty(()),
        torch.empty_like(hidden, memory_format=torch.contiguous_format),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
        weight.new_empty(0 if bias is None else len(weight)),
        counts.new_empty(0 if ranges is None else len(ranges)),
        counts.new_empty(0 if ts is None else len(ts)),
    )


@losses.register_fake
def _(hidden, weight, bias, targets, ranges, ts, powers, label_smoothing):
    return hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))


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
        return (None,) * 9
    return _gradients(ctx, (grad.to(found.dtype) * found for found in ctx.saved_tensors), others=3)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.set_materialize_grads(False)
    *tensors, ctx.powers, ctx.label_smoothing = inputs
    ctx.mode = kernels.mode()
    ctx.dtypes = _dtypes(inputs)
    ctx.save_for_backward(*tensors)


def _compute_gradients(ctx: Any, counts: Tensor | None) -> tuple[Tensor | None, ...]:
    if counts is None:
        return (None,) * 8
    with kernels.use(ctx.mode):  # autograd may be in another thread
        _, *found = loss_and_gradients(*ctx.saved_tensors, counts, ctx.powers, ctx.label_smoothing)
    return _gradients(ctx, found, others=2)


def _gradients(ctx: Any, found: Iterable[Tensor], others: int) -> tuple[Tensor | None, ...]:
    """The gradients that were found, in the order of an operator's arguments; the last ``others`` of them have none."""
    if torch.is_grad_enabled():
        raise RuntimeError("linear_cross_entropy cannot be differentiated twice; take F.cross_entropy of the logits")
    hidden, weight, bias, ranges, ts = (
        None if dtype is None else gradient.to(dtype) for dtype, gradient in zip(ctx.dtypes, found, strict=True)
    )
    return hidden, weight, bias, None, ranges, ts, *(None,) * others


loss_and_gradients.register_autograd(_scale_gradients, setup_context=_save_gradients)
losses.register_autograd(_compute_gradients, setup_context=_save_inputs)
