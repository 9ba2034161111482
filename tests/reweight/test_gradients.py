"""Closed-form gradients: they match finite differences, each can be had alone, and they repeat to the last bit."""

import torch
from torch.autograd import gradcheck, gradgradcheck


def double_case(make):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 3, 2, 6, generator=generator, dtype=torch.float64) * 2
    mask = torch.rand(2, 1, 2, 6, generator=generator) > 0.3
    mask[0, 0, 1] = False
    return make().double(), scores.requires_grad_(), mask


def test_first_and_second_derivatives_of_scores_and_parameters(make):
    attend, scores, mask = double_case(make)
    inputs = (scores, *attend.parameters())
    assert gradcheck(lambda scores, *_: attend(scores), inputs)
    assert gradcheck(lambda scores, *_: attend(scores, mask), inputs)
    assert gradgradcheck(lambda scores, *_: attend(scores, mask), inputs)


def test_modulate_has_the_right_derivatives(make):
    attend, scores, _ = double_case(make)
    assert gradcheck(lambda scores, *_: attend.modulate(scores).sin(), (scores, *attend.parameters()))


def test_each_gradient_can_be_had_without_the_others(make):
    attend, scores, mask = double_case(make)
    incoming = torch.randn_like(scores)
    everything = torch.autograd.grad(attend(scores, mask), [scores, *attend.parameters()], incoming)
    for wanted, expected in zip([scores, *attend.parameters()], everything, strict=True):
        for leaf in (scores, *attend.parameters()):
            leaf.requires_grad_(leaf is wanted)
        (alone,) = torch.autograd.grad(attend(scores, mask), wanted, incoming)
        assert torch.equal(alone, expected)


def test_gradients_are_the_same_bits_run_to_run(make):
    attend = make()
    scores = torch.randn(4, 3, 33, 65)
    mask = torch.rand(4, 1, 1, 65) > 0.2
    incoming = torch.randn_like(scores)

    def gradients():
        leaf = scores.clone().requires_grad_()
        return torch.autograd.grad(attend(leaf, mask), [leaf, *attend.parameters()], incoming)

    for once, again in zip(gradients(), gradients(), strict=True):
        assert torch.equal(once, again)


def test_float32_parameter_gradients_are_those_of_float64(make):
    torch.manual_seed(0)  # about one draw in a hundred has a gradient too near zero for a relative check
    scores = torch.randn(8, 3, 64, 64)
    incoming = torch.randn_like(scores)
    gradients = [
        torch.autograd.grad(attend(scores.to(dtype)), list(attend.parameters()), incoming.to(dtype), allow_unused=True)
        for attend, dtype in ((make(), torch.float32), (make().double(), torch.float64))
        if list(attend.parameters())
    ]
    for single, double in zip(*gradients, strict=True) if gradients else ():
        assert (single - double).norm() <= 1e-4 * double.norm()


def test_functional_transforms_differentiate_too(make):
    attend, scores, mask = double_case(make)
    scores = scores.detach()
    (by_autograd,) = torch.autograd.grad(attend(leaf := scores.clone().requires_grad_(), mask).square().sum(), leaf)
    by_transform = torch.func.grad(lambda scores: attend(scores, mask).square().sum())(scores)
    torch.testing.assert_close(by_transform, by_autograd)
