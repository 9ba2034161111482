"""Sparsemax and entmax against the entmax package and against bisection."""

import entmax as package
import pytest
import torch

from multimax import kernels, reweight
from multimax.formulas import entmax as formulas

pytestmark = pytest.mark.parametrize("_path", ["require", "eager"], indirect=True)

ALPHAS = [1.0001, 1.01, 1.1, 1.25, 1.5, 1.75, 1.99, 2.0]


def hard_rows(n):
    """Rows of n scores of the kinds that need many steps of Newton's method, or exact ones."""
    generator = torch.Generator().manual_seed(n)
    i = torch.arange(n, dtype=torch.float64)
    normal = torch.randn(n, generator=generator, dtype=torch.float64)
    one_up = -(i > 0).double()
    rows = [scale * normal for scale in (1e-6, 1e-3, 0.1, 1, 10, 100)]
    rows += [normal / normal.flip(0), i.sqrt(), torch.log1p(i), -1 / (1 + i)]
    rows += [-(ratio ** i.clamp(max=300)) * scale for ratio in (0.5, 0.99, 1.1, 2.0) for scale in (1e-8, 1e-2, 0.5)]
    rows += [height * one_up for height in (1e-6, 1e-2, 0.1, 0.5, 1)]
    return torch.stack([*rows, slowest_sparsemax_row(n)])


def slowest_sparsemax_row(n):
    """Each step of Newton's method drops a single entry: the gaps below tau grow just fast enough for that."""
    row, gap = [0.0, -1e-3], 1e-12
    while row[-1] > -1:
        k = len(row)
        row.append((sum(row) - 1) / k - gap)
        gap *= k * (k + 2) / (k + 1) * 1.02
    return torch.tensor((row + n * [-5.0])[:n], dtype=torch.float64)


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_parity_with_the_package(name):
    scores = (3 * torch.randn(64, 50, dtype=torch.float64)).requires_grad_()
    ours, theirs = getattr(reweight, name)(scores), getattr(package, name)(scores, -1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    incoming = torch.randn_like(ours)
    gradients = [torch.autograd.grad(weights, scores, incoming)[0] for weights in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)


def test_parity_with_the_package_at_one_alpha_per_head():
    scores = (3 * torch.randn(4, len(ALPHAS), 7, 50, dtype=torch.float64)).requires_grad_()
    alpha = torch.tensor(ALPHAS, dtype=torch.float64, requires_grad=True)
    ours = reweight.entmax(scores, alpha)
    theirs = package.entmax_bisect(scores, alpha[:, None, None], n_iter=100)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    incoming = torch.randn_like(ours)
    (ours_x, ours_alpha), (theirs_x, theirs_alpha) = (
        torch.autograd.grad(weights, (scores, alpha), incoming) for weights in (ours, theirs)
    )
    torch.testing.assert_close(ours_x, theirs_x, rtol=0, atol=1e-11)
    # Near alpha = 1 the package's gradient is a difference of large numbers; finite differences judge ours there.
    torch.testing.assert_close(ours_alpha, theirs_alpha, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours_alpha[2:], theirs_alpha[2:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [1 + 1e-4, 1 + 1e-7])
def test_gradient_of_alpha_near_softmax_is_the_finite_difference(alpha):
    scores = torch.randn(5, 20, dtype=torch.float64)
    exact = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    incoming = torch.randn_like(scores)
    (gradient,) = torch.autograd.grad(reweight.entmax(scores, exact), exact, incoming)
    step = 1e-5 * (alpha > 1 + 1e-5)  # at the bound there is only one side
    change = reweight.entmax(scores, alpha + 1e-5) - reweight.entmax(scores, alpha - step)
    torch.testing.assert_close(gradient, (change * incoming).sum() / (1e-5 + step), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [2, 10, 100, 1000, 10000])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_hard_rows_against_bisection(n, alpha):
    scores = hard_rows(n)
    exact = formulas.formula(scores, alpha)
    torch.testing.assert_close(reweight.entmax(scores, alpha), exact, rtol=1e-7, atol=1e-11)
    # One rounding of tau moves the mass of every entry: in float32 no method can do better than about n times epsilon.
    single = reweight.entmax(scores.float(), alpha)
    atol = (1 + n) * torch.finfo(torch.float32).eps
    torch.testing.assert_close(single.double(), formulas.formula(scores.float().double(), alpha), rtol=1e-4, atol=atol)
    torch.testing.assert_close(single.double().sum(-1), torch.ones(len(scores)).double(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_newton_has_arrived_before_its_last_step(alpha, monkeypatch):
    scores = hard_rows(1000)
    kernels.use("eager")
    weights = reweight.entmax(scores, alpha)
    monkeypatch.setattr(formulas, "MAX_STEPS", 2 * formulas.MAX_STEPS)
    torch.testing.assert_close(reweight.entmax(scores, alpha), weights, rtol=1e-12, atol=1e-15)


def test_alpha_of_one_is_softmax_and_nearly_so_beside_it():
    scores = 5 * torch.randn(8, 30, dtype=torch.float64)
    softmax = torch.softmax(scores, -1)
    assert torch.equal(reweight.entmax(scores, 1), softmax)
    for alpha in (torch.tensor(1.0, dtype=torch.float64), 1 + 1e-12):
        torch.testing.assert_close(reweight.entmax(scores, alpha), softmax, rtol=1e-9, atol=0)


def test_an_alpha_in_a_tensor_is_the_number_in_it():
    scores = torch.randn(4, 3, 5, 6, dtype=torch.float64)
    for alpha in ALPHAS:
        by_number = reweight.entmax(scores, alpha)
        for tensor in (torch.tensor(alpha), torch.tensor([alpha]), torch.full((3,), alpha)):
            torch.testing.assert_close(reweight.entmax(scores, tensor.double()), by_number, rtol=0, atol=1e-7)


def test_large_margins_give_exact_zeros_and_ones():
    scores = torch.tensor([3.0, 0.0, -1.0, 0.5])
    for alpha in (1.5, 1.75, 2.0):
        assert torch.equal(reweight.entmax(scores, alpha), torch.tensor([1.0, 0.0, 0.0, 0.0]))


def test_learned_alpha_starts_at_one_and_a_half_and_has_a_gradient_per_head():
    attend = reweight.create("entmax", num_heads=4)
    assert torch.equal(attend.alpha, torch.full((4,), 1.5))
    scores = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(attend(scores), reweight.entmax15(scores))
    attend(scores)[:, 2].square().sum().backward()
    assert attend.u.grad[2] != 0
    assert torch.equal(attend.u.grad[[0, 1, 3]], torch.zeros(3))


@pytest.mark.parametrize("alpha", [0.99, -1.0, float("nan"), float("inf")])
def test_alpha_out_of_bounds_is_refused(alpha):
    for build in (
        lambda: reweight.create("entmax", alpha=alpha),
        lambda: reweight.entmax(torch.zeros(3), alpha),
        lambda: reweight.entmax(torch.zeros(3), torch.tensor(alpha)),
        lambda: reweight.entmax(torch.zeros(2, 3), torch.tensor([[1.5], [alpha]])),
        lambda: reweight.entmax(torch.zeros(2, 3, 3), torch.tensor([1.5, alpha])),
    ):
        with pytest.raises(ValueError, match="alpha must be at least 1"):
            build()


def test_alphas_for_another_number_of_heads_are_refused():
    with pytest.raises(ValueError, match="4 heads"):
        reweight.entmax(torch.zeros(2, 3, 5, 5), torch.full((4,), 1.5))
