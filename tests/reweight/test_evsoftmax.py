"""Softmax compared with PyTorch's, and ev-softmax with its formula."""

import pytest
import torch

from multimax import reweight
from multimax.formulas.evsoftmax import formula

pytestmark = pytest.mark.parametrize("_path", ["require", "eager"], indirect=True)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.3])
def test_parity_with_the_formula(epsilon):
    scores = (2 * torch.randn(50, 9, dtype=torch.float64)).requires_grad_()
    ours, theirs = reweight.evsoftmax(scores, epsilon=epsilon), formula(scores, epsilon)
    torch.testing.assert_close(ours, theirs)
    incoming = torch.randn_like(ours)
    gradients = [torch.autograd.grad(weights, scores, incoming)[0] for weights in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_the_mean_is_that_of_the_live_entries():
    scores = torch.tensor([1.0, 2.0, 4.0, -1e4])
    mask = torch.tensor([True, True, True, False])
    assert reweight.evsoftmax(scores, mask=mask).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("step", [1.0, 0.1, 1 / 3, 1e-20, 1e20])
def test_an_entry_at_the_mean_is_kept_whatever_the_rounding(step):
    for half in range(1, 40):
        right = torch.arange(1, half + 1) * step
        scores = torch.cat([-right, torch.zeros(1), right])
        for order in (scores, scores.flip(0), scores[torch.randperm(len(scores))]):
            kept = reweight.evsoftmax(order * 0.01 / (1 + step), epsilon=0) > 0
            assert torch.equal(kept, order >= 0)


def test_a_negative_epsilon_is_refused():
    builds = (
        lambda: reweight.create("evsoftmax", epsilon=-1.0),
        lambda: reweight.evsoftmax(torch.zeros(2), epsilon=-1),
    )
    for build in builds:
        with pytest.raises(ValueError, match="epsilon must be at least 0"):
            build()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_softmax_without_a_mask_is_pytorchs_bit_for_bit(dtype):
    scores = (3 * torch.randn(20, 33)).to(dtype).requires_grad_()
    incoming = torch.randn(20, 33).to(dtype)
    ours, theirs = reweight.softmax(scores), torch.softmax(scores, -1)
    assert torch.equal(ours, theirs)
    gradients = [torch.autograd.grad(weights, scores, incoming)[0] for weights in (ours, theirs)]
    assert torch.equal(*gradients)
