"""Sparsemax and entmax compared with the entmax package and with bisection."""

import entmax as package
import pytest
import torch

from multimax import kernels, reweight
from multimax.formulas import entmax as formulas
from multimax.formulas import newton

pytestmark = pytest.mark.parametrize("_path", ["require", "eager"], indirect=True)

ALPHAS = [1.0001, 1.01, 1.1, 1.25, 1.5, 1.75, 1.99, 2.0]


def hard_rows(n):
    """Rows of n scores of kinds for which Newton's method needs many steps, or exact ones."""
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
    """A row for which each Newton step drops a single entry: the gaps below tau grow just fast enough."""
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
    # Near alpha = 1 the package's gradient is a difference of large numbers. The next test checks ours there against
    # finite differences.
    torch.testing.assert_close(ours_alpha, theirs_alpha, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours_alpha[2:], theirs_alpha[2:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [1 + 1e-4, 1 + 1e-7])
def test_gradient_of_alpha_near_softmax_is_the_finite_difference(alpha):
    scores = torch.randn(5, 20, dtype=torch.float64)
    exact = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    incoming = torch.randn_like(scores)
    (gradient,) = torch.autograd.grad(reweight.entmax(scores, exact), exact, incoming)
    step = 1e-5 * (alpha > 1 + 1e-5)  # at the bound a difference can only go up
    change = reweight.entmax(scores, alpha + 1e-5) - reweight.entmax(scores, alpha - step)
    torch.testing.assert_close(gradient, (change * incoming).sum() / (1e-5 + step), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [2, 10, 100, 1000, 10000])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_hard_rows_against_bisection(n, alpha):
    scores = hard_rows(n)
    exact = formulas.formula(scores, alpha)
    torch.testing.assert_close(reweight.entmax(scores, alpha), exact, rtol=1e-7, atol=1e-11)
    # Rounding tau once changes the weight of every entry, so in float32 no method can beat about n times epsilon.
    single = reweight.entmax(scores.float(), alpha)
    atol = (1 + n) * torch.finfo(torch.float32).eps
    torch.testing.assert_close(single.double(), formulas.formula(scores.float().double(), alpha), rtol=1e-4, atol=atol)
    torch.testing.assert_close(single.double().sum(-1), torch.ones(len(scores)).double(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_newton_has_arrived_before_its_last_step(alpha, monkeypatch):
    scores = hard_rows(1000)
    kernels.use("eager")
    weights = reweight.entmax(scores, alpha)
    monkeypatch.setattr(newton, "MAX_STEPS", 2 * newton.MAX_STEPS)
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


def test_parity_with_the_package_above_2():
    scores = (3 * torch.randn(50, 20, dtype=torch.float64)).requires_grad_()
    alpha = torch.linspace(2.05, 3, 50, dtype=torch.float64)[:, None].requires_grad_()
    ours, theirs = reweight.entmax(scores, alpha), package.entmax_bisect(scores, alpha, n_iter=200)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    incoming = torch.randn_like(ours)
    for mine, reference in zip(
        *(torch.autograd.grad(weights, (scores, alpha), incoming) for weights in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-8)
    for row, number in zip(ours[::7], alpha[::7, 0].tolist(), strict=True):
        index = (ours == row).all(-1)
        torch.testing.assert_close(reweight.entmax(scores[index], number)[0], row, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (3,), (1, 1), (3, 1, 1), (4, 1), (1, 4, 1), (2, 1, 1, 1), (2, 3, 1, 1), (2, 3, 4, 1), (1, 3, 4, 1)],
)
@pytest.mark.parametrize("highest", [2.0, 2.6], ids=["to 2", "above"])
def test_alpha_of_any_shape_that_broadcasts_is_the_number_of_each_row(shape, highest):
    scores = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 1, 4, 6) > 0.3
    count = torch.Size(shape).numel()
    alpha = torch.linspace(1, highest, count, dtype=torch.float64).reshape(shape).requires_grad_()
    weights = reweight.entmax(scores, alpha, mask=mask)
    of_rows = (alpha[:, None, None] if shape == (3,) else alpha).expand(2, 3, 4, 1)
    for i in torch.cartesian_prod(*map(torch.arange, (2, 3, 4))).tolist():
        i = tuple(i)
        alone = reweight.entmax(scores[i], of_rows[i].item(), mask=mask.expand(2, 3, 4, 6)[i])
        torch.testing.assert_close(weights[i], alone, rtol=1e-7, atol=1e-9)
    incoming = torch.randn_like(weights)
    gradients = torch.autograd.grad(weights, (scores, alpha), incoming)
    rows = of_rows.detach().clone().requires_grad_()
    expected = torch.autograd.grad(reweight.entmax(scores, rows, mask=mask), (scores, rows), incoming)
    torch.testing.assert_close(gradients[0], expected[0], rtol=1e-7, atol=1e-9)
    summed = expected[1].sum((0, 2, 3)) if shape == (3,) else expected[1].sum_to_size(shape or (1,)).reshape(shape)
    torch.testing.assert_close(gradients[1], summed, rtol=1e-7, atol=1e-8)


def test_derivatives_are_right_to_the_fourth_order():
    scores, change = torch.randn(2, 6, dtype=torch.float64)
    of = lambda t: (reweight.entmax(scores + t * change, 1.4) * change).sum()  # noqa: E731
    t = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    expected, forward, reverse = of(t), of, of
    for _ in range(4):
        (expected,) = torch.autograd.grad(expected, t, create_graph=True)
        forward, reverse = torch.func.jacfwd(forward), torch.func.grad(reverse)
        for found in (forward(t.detach()), reverse(t.detach())):
            torch.testing.assert_close(found, expected.detach(), rtol=1e-8, atol=1e-8)
    for fifth in (torch.func.jacfwd(forward), torch.func.grad(reverse)):
        with pytest.raises(NotImplementedError, match="four derivatives"):
            fifth(t.detach())


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


@pytest.mark.parametrize(
    ("scores", "alpha"), [((2, 3, 5, 5), (4,)), ((3, 5), (3,)), ((3, 5), (2, 1)), ((3, 5), (3, 5)), ((5,), (3, 1))]
)
def test_alphas_that_do_not_broadcast_to_the_rows_are_refused(scores, alpha):
    with pytest.raises(ValueError, match=r"alpha for . heads does not fit|alpha of shape .* does not broadcast"):
        reweight.entmax(torch.zeros(scores), torch.full(alpha, 1.5))


def test_values_that_cannot_be_read_give_nan_out_of_bounds():
    alpha = torch.tensor([0.9, 1.5, 2.0, 2.1])
    weights = torch.func.vmap(lambda alpha: reweight.entmax(torch.arange(3.0), alpha))(alpha)
    assert weights.isnan().all(-1).tolist() == [True, False, False, True]
