"""Row kernels on the CPU match float64: shapes, masks, dtypes, extreme scores, strides and zero sizes."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimax import kernels, reweight
from multimax.formulas import multimax as multimax_formula
from multimax.formulas.entmax import gradient
from multimax.kernels import blocked_multimax, operators

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ORDERS = {1: (1, 1), 2: (1, 1, 2, 2), "second_only": (2, 2)}

many = settings(max_examples=1000, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def _kernels_or_a_failure():
    with kernels.use("require"):
        assert kernels.path(torch.zeros(1)) == "cpp"
        yield


def scores_of(kind, shape, generator):
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    kinds = {
        "normal": normal,
        "wide": 10 * normal,
        "narrow": 1e-4 * normal,
        "ties": normal.round(),
        "equal": torch.zeros_like(normal),
        "huge": 1e4 * normal,
        "subnormal": 1e-40 * normal,
        "one up": torch.where(normal == normal.amax(-1, keepdim=True), 50.0, normal) if normal.numel() else normal,
    }
    return kinds[kind]


KINDS = ["normal", "wide", "narrow", "ties", "equal", "huge", "subnormal", "one up"]


@st.composite
def cases(draw):
    """Scores [batch, heads, queries, n], a mask or None, an incoming gradient and a random generator for more."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sizes = [0, 1, 1, 2, 3] if draw(st.integers(0, 9)) == 0 else [1, 2, 3]
    shape = [draw(st.sampled_from(sizes)) for _ in range(3)] + [draw(st.integers(0, 70))]
    scores = scores_of(draw(st.sampled_from(KINDS)), shape, generator).to(draw(st.sampled_from(DTYPES)))
    mask_kind = draw(st.sampled_from(["none", "random", "sparse", "causal", "run", "broadcast", "empty"]))
    n = shape[-1]
    masks = {
        "none": lambda: None,
        "random": lambda: torch.rand(shape, generator=generator) < 0.6,
        "sparse": lambda: torch.rand(shape, generator=generator) < 0.1,
        "causal": lambda: torch.ones(shape[-2:], dtype=torch.bool).tril(n - shape[-2]),
        "run": lambda: (torch.arange(n) >= n // 3) & (torch.arange(n) < 1 + 2 * n // 3),
        "broadcast": lambda: (torch.rand(shape[0], 1, shape[2], 1, generator=generator) < 0.7).expand(shape),
        "empty": lambda: torch.zeros(1, dtype=torch.bool),
    }
    mask = masks[mask_kind]()
    grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(scores.dtype)
    if draw(st.booleans()):  # the same numbers with other strides
        scores = scores.transpose(-1, -2).contiguous().transpose(-1, -2)
        grad = grad.transpose(0, -1).contiguous().transpose(0, -1)
        if mask is not None and mask.dim() == 4:
            mask = mask.transpose(-1, -2).contiguous().transpose(-1, -2)
    return scores, mask, grad, generator


def live(mask, scores):
    return torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)


def precision(dtype):
    """Machine epsilon of the dtype that is computed in, and of the dtype that is returned."""
    return torch.finfo(torch.promote_types(dtype, torch.float32)).eps, torch.finfo(dtype).eps


def assert_near(actual, expected, tolerance):
    worst = (actual.double() - expected).abs() - tolerance
    assert not actual.isnan().any()
    assert (worst <= 0).all(), f"off by {worst.max():.3g} more than allowed"


@pytest.mark.parametrize("implementation", [operators.multimax, blocked_multimax.multimax], ids=["cpp", "blocks"])
@many
@given(case=cases(), order=st.sampled_from([1, 2, "second_only"]), per_head=st.booleans(), block=st.integers(1, 300))
def test_multimax(implementation, case, order, per_head, block):
    scores, mask, grad, generator = case
    dtype, powers = scores.dtype, ORDERS[order]
    compute = torch.promote_types(dtype, torch.float32)
    heads = scores.shape[1] if per_head else 1
    drawn = 0.4 * torch.randn(2, heads, len(powers), generator=generator, dtype=torch.float64)
    leaves = [leaf.clone().requires_grad_() for leaf in (scores, *drawn.to(compute))]
    if implementation is blocked_multimax.multimax and scores.numel() == 0:
        return
    with mock.patch.object(blocked_multimax, "BLOCK", block):
        weights = implementation(leaves[0], mask, *leaves[1:], powers)
        gradients = torch.autograd.grad(weights, leaves, grad)

    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    if scores.shape[1] == 0 and per_head:
        return
    expected = multimax_formula.weigh(*exact, mask, powers)
    references = torch.autograd.grad(expected, exact, grad.double())

    # A rounding error in a modulated score changes its weight by the same relative amount.
    eps, returned = precision(dtype)
    x = exact[0].detach().where(live(mask, scores), 0).abs()
    size = x.amax().item() + 1 if x.numel() else 1.0
    slope = 1 + 2 * drawn.abs().sum().item() * size
    error = min(1.0, 32 * eps * slope * size)
    assert_near(weights, expected, error + returned)
    assert (weights[~live(mask, scores)] == 0).all()
    steepness = max(1.0, grad.double().abs().amax().item() if grad.numel() else 1.0)
    assert_near(gradients[0], references[0], 4 * (error + 2 * returned) * slope * steepness)
    mass = scores.numel() / max(1, scores.shape[-1]) * steepness * size**2 * max(1.0, drawn.abs().max().item() * 2)
    for ours, theirs in zip(gradients[1:], references[1:], strict=True):
        assert ours.shape == theirs.shape
        assert_near(ours, theirs, 4 * error * mass)


@many
@given(case=cases(), alpha=st.sampled_from([1.0001, 1.1, 1.25, 1.5, 1.75, 2.0]), learned=st.booleans())
def test_entmax(case, alpha, learned):
    scores, mask, grad, _ = case
    compute = torch.promote_types(scores.dtype, torch.float32)
    heads = scores.shape[1] if learned and scores.shape[1] else 1
    given_alpha = torch.linspace(1.0, alpha, heads, dtype=compute) if learned else alpha
    weights = operators.entmax(scores, mask, given_alpha)
    with kernels.use("eager"):
        exact_alpha = given_alpha.double() if learned else alpha
        expected = reweight.entmax(scores.double(), exact_alpha, mask=mask)
    # Rounding the normaliser once changes every weight.
    eps, returned = precision(scores.dtype)
    assert_near(weights, expected, (40 + 8 * scores.shape[-1]) * eps + returned)
    assert (weights[~live(mask, scores)] == 0).all()

    # Rounding decides which entries are in the support, so compare the gradients at the same weights.
    by_head = exact_alpha[:, None, None] if learned and heads > 1 else exact_alpha
    grad_scores, grad_alpha = gradient(grad.double(), weights.double(), by_head, of_alpha=True)
    if learned:
        ours, ours_alpha = torch.ops.multimax.alpha_entmax_backward(grad, weights, given_alpha)
        size = grad_scores.abs().sum().item() * 50 + 1  # psi is at most log(p)^2 / 2
        assert_near(ours_alpha, grad_alpha.reshape(-1), 200 * (eps + 0 * returned) * size)
    else:
        ours = torch.ops.multimax.entmax_backward(grad, weights, given_alpha)
    largest = grad.double().abs().amax().item() if grad.numel() else 1.0
    assert_near(ours, grad_scores, (100 * eps + 2 * returned) * (1 + largest))
    assert (ours[weights == 0] == 0).all()


@many
@given(case=cases(), epsilon=st.sampled_from([0.0, 1e-6, 0.3]))
def test_evsoftmax(case, epsilon):
    scores, mask, grad, _ = case
    leaf = scores.clone().requires_grad_()
    weights = operators.evsoftmax(leaf, mask, epsilon)
    (gradient,) = torch.autograd.grad(weights, leaf, grad)
    exact = scores.double().requires_grad_()
    with kernels.use("eager"):
        expected = reweight.evsoftmax(exact, mask=mask, epsilon=epsilon)
    (reference,) = torch.autograd.grad(expected, exact, grad.double())
    eps, returned = precision(scores.dtype)
    if scores.numel():
        # Leave out rows with an entry at the mean up to rounding, which may be kept or not; not rows of equal entries.
        x = scores.double().where(live(mask, scores), math.nan)
        gap = (x - x.nanmean(-1, keepdim=True)).abs()
        spread = gap.nan_to_num(0).amax(-1, keepdim=True)
        clear = ((gap > 64 * eps * (spread + 1e-300)) | gap.isnan()).all(-1) | (spread == 0).squeeze(-1)
        weights, expected, gradient, reference = (t[clear] for t in (weights, expected, gradient, reference))
    size = grad.double().abs().amax().item() + 1 if grad.numel() else 1.0
    assert_near(weights, expected, 32 * eps + returned)
    assert_near(gradient, reference, (64 * eps + 8 * returned) * size)


def functions():
    ranges, ts = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([1.3])
    return {
        "multimax": (lambda x, m, *p: operators.multimax(x, m, *p, (1, 1, 2, 2)), [ranges, ts]),
        "sparsemax": (lambda x, m: operators.entmax(x, m, 2.0), []),
        "entmax15": (lambda x, m: operators.entmax(x, m, 1.5), []),
        "entmax": (operators.entmax, [alpha]),
        "evsoftmax": (lambda x, m: operators.evsoftmax(x, m, 0.0), []),
    }


@pytest.mark.parametrize("name", functions())
@pytest.mark.parametrize("shape", [(3, 5, 197), (2, 7, 512), (3, 40000)])
def test_the_same_bits_run_to_run_and_for_any_number_of_threads(name, shape):
    function, parameters = functions()[name]
    scores, grad = torch.randn(2, *shape)
    mask = torch.rand(shape[-1]) > 0.2
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 1, 2, 3):
            torch.set_num_threads(count)
            leaves = [leaf.clone().requires_grad_() for leaf in (scores, *parameters)]
            weights = function(leaves[0], mask, *leaves[1:])
            results.append([weights, *torch.autograd.grad(weights, leaves, grad)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", functions())
def test_long_rows_sum_to_one(name):
    function, parameters = functions()[name]
    for kind in ("normal", "narrow", "equal"):
        scores = scores_of(kind, (2, 300_000), torch.Generator().manual_seed(0)).float()
        weights = function(scores, None, *parameters)
        torch.testing.assert_close(weights.double().sum(-1), torch.ones(2).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", functions())
def test_operator_registrations(name):
    """torch.library finds the schema, fake and autograd registrations in order."""
    _, parameters = functions()[name]
    operator, rest = {
        "multimax": (torch.ops.multimax.multimax_forward, [(1, 1, 2, 2)]),
        "entmax": (torch.ops.multimax.alpha_entmax_forward, []),
        "evsoftmax": (torch.ops.multimax.evsoftmax_forward, [0.0]),
    }.get(name, (torch.ops.multimax.entmax_forward, [{"sparsemax": 2.0}.get(name, 1.5)]))
    scores = torch.randn(2, 3, 4, 5, requires_grad=True)
    parameters = [p.clone().requires_grad_() for p in parameters]
    torch.library.opcheck(operator, (scores, torch.rand(2, 1, 4, 5) > 0.3, *parameters, *rest))
