"""torch.func, forward-mode differentiation, tracing, fake and meta tensors, for every function, option and path."""

import pytest
import torch
from conftest import module
from function_kinds import KINDS
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from transforms import ROWWISE, TRANSFORMS, compiled

from multimax import reweight

HEADS = 3


pytestmark = pytest.mark.usefixtures("small_fresh_graphs")


class Weights(nn.Module):
    def __init__(self, attend, masked):
        super().__init__()
        self.attend = attend
        self.mask = torch.tensor([[True] * 4, [True, False, True, True], [False] * 4]) if masked else None

    def forward(self, scores):
        return self.attend(scores, self.mask)


class Loss(nn.Module):
    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion

    def forward(self, scores):
        targets = torch.arange(scores.shape[-1]).expand(len(scores), -1)[:, 1]
        return self.criterion.loss(scores, targets, reduction="none", label_smoothing=0.1)


def drawn(*shape):
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def check(transform, module, scores):
    parameters = {name: parameter.detach().double() for name, parameter in module.named_parameters()}

    def f(scores, *values):
        return functional_call(module, dict(zip(parameters, values, strict=True)), (scores,))

    for found, expected in transform(f, (scores, *parameters.values())):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("transform", [*TRANSFORMS, *ROWWISE])
def test_transforms_agree_with_reverse_mode(make, transform):
    if transform == "dual_numbers_in_the_backward" and isinstance(getattr(make(), "modulator", None), reweight.SiLU):
        pytest.skip("torch has no forward mode for silu's backward")
    check((TRANSFORMS | ROWWISE)[transform], Weights(make(), masked=True), drawn(2, HEADS, 3, 4))


@pytest.mark.parametrize("transform", ["jvp", "vmap"])
def test_transforms_agree_without_a_mask(make, transform):
    check((TRANSFORMS | ROWWISE)[transform], Weights(make(), masked=False), drawn(2, HEADS, 3, 4))


@pytest.mark.parametrize("transform", ["jvp", "hessians", "vmap_over_parameters"])
def test_losses_have_the_same_transforms(make, transform):
    criterion = make(num_heads=None)
    if not criterion.has_loss:
        pytest.skip("declared to have no loss")
    check((TRANSFORMS | ROWWISE)[transform], Loss(criterion), drawn(3, 4))


@pytest.mark.parametrize("_path", ["require", "eager"], indirect=True)
@pytest.mark.parametrize("name", KINDS)
def test_compiled_functions_keep_their_derivatives(name):
    check(compiled, Weights(module(name, {}), masked=True), drawn(2, HEADS, 3, 4))


def test_fake_and_meta_tensors_have_the_shape_and_dtype_of_the_weights(make):
    for dtype in (torch.bfloat16, torch.float64):
        with FakeTensorMode():
            weights = make()(torch.empty(2, HEADS, 4, 5, dtype=dtype), torch.ones(4, 5, dtype=torch.bool))
        assert (weights.shape, weights.dtype, weights.device.type) == ((2, HEADS, 4, 5), dtype, "cpu")
        attend = make().to("meta")
        scores = torch.empty(2, HEADS, 4, 5, dtype=dtype, device="meta", requires_grad=True)
        weights = attend(scores, torch.ones(4, 5, dtype=torch.bool, device="meta"))
        assert (weights.shape, weights.dtype, weights.device.type) == ((2, HEADS, 4, 5), dtype, "meta")
        gradients = torch.autograd.grad(weights, [scores, *attend.parameters()], torch.empty_like(weights))
        assert gradients[0].shape == scores.shape
