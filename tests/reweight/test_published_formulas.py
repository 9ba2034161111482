"""Functions without a kernel match their authors' formulas, row by row over the live entries only."""

import math

import entmax as package
import pytest
import torch
from torch import relu

from multimax import reweight

HEADS = 3
GENERATOR = torch.Generator().manual_seed(0)
OF_HEADS = torch.tensor([0.7, -1.2, 0.2], dtype=torch.float64)


def softpick(x, eps=1e-8):
    """The numerically stable form, as in the authors' repository."""
    largest = x.max()
    less_one = torch.exp(x - largest) - torch.exp(-largest)
    return relu(less_one) / (less_one.abs().sum() + eps)


def stieltjes(x, q):
    """Find the pole by bisection, as the authors' second variant does."""
    z = x - x.max()
    low, high = torch.tensor(1e-9, dtype=x.dtype), torch.tensor(len(x) ** (1 / q), dtype=x.dtype)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if ((middle - z) ** -q).sum() > 1 else (low, middle)
    return ((low + high) / 2 - z) ** -q


def topk(x, k):
    values, index = x.topk(min(k, len(x)))
    return torch.zeros_like(x).scatter(0, index, values.softmax(0))


def self_adjusted(x):
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    return (x - low) / (high - low) * x.softmax(0)


FORMULAS = {
    "sigmoid": lambda x, p: torch.sigmoid(x - math.log(len(x))),
    "relu": lambda x, p: relu(x) / len(x),
    "softmax_plus_one": lambda x, p: x.exp() / (1 + x.exp().sum()),
    "sink": lambda x, p: x.exp() / (p.exp() + x.exp().sum()),
    "softpick": lambda x, p: softpick(x),
    "scalable_softmax": lambda x, p: len(x) ** (p * x) / (len(x) ** (p * x)).sum(),
    "topk_softmax": lambda x, p: topk(x, 8),
    "elastic_softmax": lambda x, p: relu(x.softmax(0) + p / len(x)),
    "sa_softmax": lambda x, p: self_adjusted(x),
    "normmax": lambda x, p: package.normmax_bisect(x, 2, -1, 60),
    "stieltjes": lambda x, p: stieltjes(x, 4.0),
}


def test_every_function_without_a_kernel_is_here():
    assert set(FORMULAS) == {n for n in reweight.available() if reweight.create(n).row_kernel() is None}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("size", [0.5, 3.0])
def test_the_weights_are_those_of_the_formula(name, size):
    module = reweight.create(name, num_heads=HEADS).double()
    for parameter in module.parameters():
        parameter.data.copy_(OF_HEADS)
    scores = size * torch.randn(2, HEADS, 4, 20, generator=GENERATOR, dtype=torch.float64)
    mask = torch.rand(2, 1, 4, 20, generator=GENERATOR) > 0.3
    weights, live = module(scores, mask), mask.expand_as(scores)
    for b, h, q in torch.cartesian_prod(*map(torch.arange, scores.shape[:-1])).tolist():
        expected = FORMULAS[name](scores[b, h, q][live[b, h, q]], OF_HEADS[h])
        torch.testing.assert_close(weights[b, h, q][live[b, h, q]], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("alpha", [1.1, 1.5, 3.0, 8.0])
def test_normmax_is_the_packages_at_every_alpha(alpha):
    x = 2 * torch.randn(50, 30, generator=GENERATOR, dtype=torch.float64)
    torch.testing.assert_close(reweight.normmax(x, alpha=alpha), package.normmax_bisect(x, alpha, -1, 100))


def test_normmax_has_the_packages_gradient():
    x = torch.randn(5, 9, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    for alpha in (1.5, 2.0, 3.0):
        sides = reweight.normmax(x, alpha=alpha), package.normmax_bisect(x, alpha, -1, 80)
        torch.testing.assert_close(*(torch.autograd.grad(side.square().sum(), x)[0] for side in sides))


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0, 16.0])
def test_stieltjes_sums_to_one_at_every_order_and_is_sharper_the_larger_it_is(q):
    x = 5 * torch.randn(100, 40, generator=GENERATOR, dtype=torch.float64)
    weights = reweight.stieltjes(x, q=q)
    torch.testing.assert_close(weights.sum(-1), torch.ones(100, dtype=torch.float64))
    torch.testing.assert_close(weights[0], stieltjes(x[0], q))
    assert (reweight.stieltjes(x, q=2 * q).amax(-1) >= weights.amax(-1) - 1e-12).all()


def test_scores_far_below_zero_leave_softpick_with_nothing_and_finite():
    x = torch.tensor([-1e4, -2e4, -1e5], requires_grad=True)
    weights = reweight.softpick(x)
    weights.sum().backward()
    assert not weights.any()
    assert not x.grad.any()


def test_ties_at_the_kth_are_kept():
    weights = reweight.topk_softmax(torch.tensor([1.0, 0.0, 0.0, 0.0, -1.0]), k=2)
    assert (weights > 0).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: reweight.normmax(torch.zeros(3), alpha=1.0), "alpha must be above 1"),
        (lambda: reweight.normmax(torch.zeros(3), alpha="2"), "alpha must be a number"),
        (lambda: reweight.stieltjes(torch.zeros(3), q=0), "q must be above 0"),
        (lambda: reweight.stieltjes(torch.zeros(3), q=True), "q must be a number"),
        (lambda: reweight.topk_softmax(torch.zeros(3), k=0), "k must be at least 1"),
        (lambda: reweight.topk_softmax(torch.zeros(3), k=1.5), "k must be an int"),
    ],
)
def test_impossible_options_are_refused(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
