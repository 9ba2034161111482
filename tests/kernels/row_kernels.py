"""The Triton row kernels and what they should give in float64: weights and gradients of scores and parameters."""

from collections.abc import Callable

import torch
from torch import Tensor

from multimax import reweight
from multimax.kernels.triton import rows as triton_rows

ORDERS = {1: (1, 1), 2: (1, 1, 2, 2), "second_only": (2, 2)}
ALPHAS = {"sparsemax": 2.0, "entmax15": 1.5, "entmax-1.25": 1.25, "entmax-1.01": 1.01}
EPSILONS = {"evsoftmax": 0.0, "evsoftmax-epsilon": 1e-6}
NAMES = [*(f"multimax-{order}" for order in ORDERS), *ALPHAS, "learned-alpha", *EPSILONS]

Arguments = tuple[Tensor, Tensor | None, list[Tensor], Tensor]  # scores, mask, parameters [heads, ...], gradient


def draw_parameters(name: str, heads: int, dtype: torch.dtype, generator: torch.Generator) -> list[Tensor]:
    """Draw parameters in the dtype that kernels compute in for scores of ``dtype``, large enough to matter."""
    kind = torch.promote_types(dtype, torch.float32)
    if name == "learned-alpha":
        return [(1 + torch.rand(heads, generator=generator)).to(kind)]
    if not name.startswith("multimax"):
        return []
    k = len(ORDERS[_order(name)])
    return [(0.4 * torch.randn(heads, k, generator=generator)).to(kind) for _ in range(2)]


def computed(name: str, scores: Tensor, mask: Tensor | None, parameters: list[Tensor], grad: Tensor) -> list[Tensor]:
    """What the kernels give. For ev-softmax only the weights, as its backward is softmax's."""
    if name.startswith("multimax"):
        powers = ORDERS[_order(name)]
        weights, statistics = triton_rows.multimax_forward(scores, mask, *parameters, powers)
        return [weights, *triton_rows.multimax_backward(grad, scores, mask, statistics, *parameters, powers)]
    if name in EPSILONS:
        return [triton_rows.evsoftmax_forward(scores, mask, EPSILONS[name])]
    if name in ALPHAS:
        weights = triton_rows.entmax_forward(scores, mask, ALPHAS[name])
        return [weights, triton_rows.entmax_backward(grad, weights, ALPHAS[name])]
    weights = triton_rows.alpha_entmax_forward(scores, mask, *parameters)
    return [weights, *triton_rows.alpha_entmax_backward(grad, weights, *parameters)]


def expected(name: str, scores: Tensor, mask: Tensor | None, parameters: list[Tensor], grad: Tensor) -> list[Tensor]:
    """What ``multimax.reweight`` and autograd give in float64, on the CPU."""
    leaves = [tensor.detach().cpu().double().requires_grad_() for tensor in (scores, *parameters)]
    alone = [p if p.shape[0] > 1 else p.squeeze(0) for p in leaves[1:]]
    weights = _function(name, *alone)(leaves[0], None if mask is None else mask.cpu())
    if name in EPSILONS:
        return [weights]
    return [weights, *torch.autograd.grad(weights, leaves, grad.cpu().double())]


def _order(name: str) -> int | str:
    order = name.removeprefix("multimax-")
    return int(order) if order.isdigit() else order


def _function(name: str, *parameters: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    if name.startswith("multimax"):
        return lambda scores, mask: reweight.multimax(scores, *parameters, mask=mask, order=_order(name))
    if name in EPSILONS:
        return lambda scores, mask: reweight.evsoftmax(scores, mask=mask, epsilon=EPSILONS[name])
    alpha = ALPHAS[name] if name in ALPHAS else parameters[0]
    return lambda scores, mask: reweight.entmax(scores, alpha, mask=mask)


def check(name: str, scores: Tensor, mask: Tensor | None, parameters: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Compare the two, within what the dtypes resolve, and return what was computed.

    An entmax's gradient jumps where an entry enters the support, so it is compared only in rows whose supports agree,
    and the gradient of alpha only if all rows agree. Where supports differ, the weights must be too small to tell from
    zero. Ev-softmax's weights jump at the mean: rows may differ only in whether they keep entries at the mean.
    """
    ours = computed(name, scores, mask, parameters, grad)
    assert all(tensor.device == scores.device and tensor.is_contiguous() for tensor in ours)
    assert [tensor.dtype for tensor in ours] == [scores.dtype, scores.dtype, *(p.dtype for p in parameters)][
        : len(ours)
    ]
    ours = [tensor.double().cpu() for tensor in ours]
    theirs = [tensor.detach() for tensor in expected(name, scores, mask, parameters, grad)]
    size = float((1 + scores.double().abs().nan_to_num(0, 0).where(_live(scores, mask), 0).max()) ** 2)
    calculated = 8 * torch.finfo(torch.promote_types(scores.dtype, torch.float32)).eps * size
    stored = 4 * torch.finfo(scores.dtype).eps
    same = 1.0 - _at_the_mean(scores, mask, ours[0], theirs[0], stored + calculated) if name in EPSILONS else 1.0
    torch.testing.assert_close(
        ours[0] * same, theirs[0] * same, rtol=stored + calculated, atol=stored / 16 + calculated
    )
    if len(ours) == 1:
        return ours
    differ = (ours[0] > 0) != (theirs[0] > 0)
    assert float(theirs[0][differ].max() if differ.any() else 0) <= stored + calculated
    agree = ~differ.any(-1, keepdim=True)
    if not name.startswith("multimax"):
        calculated += 4 * stored  # the backward reads the weights as stored, rounded
    largest = max(float(theirs[1].abs().max()), 1e-6)
    torch.testing.assert_close(
        (ours[1] * agree) / largest, (theirs[1] * agree) / largest, rtol=0, atol=2 * (stored + calculated)
    )
    rows = float(grad.abs().max()) * scores.shape[:-1].numel()
    for our, their in zip(ours[2:], theirs[2:], strict=True):
        if name.startswith("multimax"):
            torch.testing.assert_close(our, their, rtol=1e-4, atol=calculated * max(rows * size, 1e-6))
        elif agree.all():  # each row contributes about as much as the incoming gradient
            resolved = 16 * torch.finfo(torch.promote_types(scores.dtype, torch.float32)).eps
            torch.testing.assert_close(our, their, rtol=1e-5, atol=(resolved + stored) * max(rows, 1e-6))
    return ours


def _at_the_mean(scores: Tensor, mask: Tensor | None, ours: Tensor, theirs: Tensor, tolerance: float) -> Tensor:
    """1 for rows where only one of the two keeps some entry. All such entries must be at their row's mean."""
    live = _live(scores, mask).cpu()
    below = scores.double().cpu().where(live, -torch.inf)
    below = (below - below.amax(-1, keepdim=True)).where(live, 0)
    mean = below.sum(-1, keepdim=True) / live.sum(-1, keepdim=True)
    differ = ((ours > 2 * theirs) | (theirs > 2 * ours)) & (torch.maximum(ours, theirs) > tolerance)
    assert bool(((below - mean).abs() <= 1e-5 * mean.abs())[differ].all())
    return differ.any(-1, keepdim=True).double()


def _live(scores: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
