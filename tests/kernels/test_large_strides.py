"""Triton kernels on tensors whose last entry is more than 2^31 entries after the first, in sparse memory."""

import math

import pytest
import torch
from row_kernels import NAMES, computed, draw_parameters

from multimax.kernels.triton import flash
from multimax.kernels.triton.cross_entropy import cross_entropy

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture
def spread(tmp_path, device, monkeypatch):
    """A function that copies a small tensor into memory with the given strides."""
    if device.type == "cpu":  # the interpreter would copy the whole memory onto itself
        monkeypatch.setattr("triton.runtime.interpreter.GridExecutor._restore_args_dev", lambda *_: None)

    def lay_out(tensor, *strides):
        kind = torch.uint8 if tensor.dtype == torch.bool else tensor.dtype
        size = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, strides, strict=True))
        assert size > 2**31
        if device.type == "cpu":
            memory = torch.from_file(
                str(tmp_path / f"{len(list(tmp_path.iterdir()))}"), shared=True, size=size, dtype=kind
            )
        else:
            memory = torch.empty(size, dtype=kind, device=device)
        result = memory.as_strided(tensor.shape, strides).view(tensor.dtype)
        return result.copy_(tensor)

    return lay_out


@pytest.mark.parametrize("strides", [(1, 5, 10, 2**30), (1, 100, 2**31, 5), (2**32 + 3, 2**31, 7, 1)], ids=str)
@pytest.mark.parametrize("name", ["multimax-2", "sparsemax", "learned-alpha", "evsoftmax"])
def test_masks_of_the_row_kernels(name, strides, spread, device):
    generator = torch.Generator().manual_seed(0)
    scores, grad = torch.randn(2, 2, 2, 3, 4, generator=generator).to(device)
    mask = (torch.rand(scores.shape, generator=generator) < 0.7).to(device)
    parameters = [p.to(device) for p in draw_parameters(name, 1, scores.dtype, generator)]
    expected = computed(name, scores, mask, parameters, grad)
    found = computed(name, scores, spread(mask, *strides), parameters, grad)
    assert all(map(torch.equal, found, expected))
    assert name in NAMES


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("far", [0, 1, 2, 3, 4])
def test_flash_attention(far, causal, spread, device):
    """``far`` is the index of the tensor that is spread: query, key, value, incoming gradient or mask."""
    query, key, value, grad = torch.randn(4, 1, 1, 20, 4, generator=torch.Generator().manual_seed(0)).to(device)
    mask = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(1)).to(device) > 0.2
    ranges, ts = torch.tensor([[-0.5, 0.5], [0.2, 0.1]], device=device)
    near = [query, key, value, grad, mask]

    def run(query, key, value, grad, mask):
        leaves = [t.requires_grad_() for t in (query, key, value)]
        output = flash.flash_attention(*leaves, ranges, ts, (1, 1), mask, causal=causal)
        return output, *torch.autograd.grad(output, leaves, grad)

    expected = run(*near)
    strides = (1, 1, 2**27, 1) if far < 4 else (1, 1, 1, 2**27)
    near[far] = spread(near[far].detach(), *strides)
    assert all(map(torch.equal, run(*near), expected))


@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy(soft, spread, device):
    logits, probabilities = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).to(device)
    targets = probabilities.softmax(-1) if soft else torch.tensor([0, 5, 2, 3], device=device)
    results = []
    for x, y in ((logits, targets), (spread(logits, 2**30, 1), spread(targets, 2**30, 1) if soft else targets)):
        x = x if x.stride(0) > 6 else x.clone()
        results.append([x, *cross_entropy(x, 6, y, torch.ones(4, device=device), None, None, (), 0.1, True)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("target", [-100, -1, 6, 7, 2**31, 2**32 + 1, -(2**63)])
def test_a_class_that_is_none_spoils_its_own_row_alone(target, smoothing, device):
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).to(device)  # six classes, two of padding
    counts, ranges, ts = torch.ones(3, device=device), *torch.tensor([[-0.5, 0.5], [0.2, 0.1]], device=device)

    def run(target):
        x, targets = logits.clone(), torch.tensor([2, target, 5], device=device)
        losses, of_parameters = cross_entropy(x, 6, targets, counts, ranges, ts, (1, 1), smoothing, True)
        return losses, x, of_parameters

    for spoilt, right in zip(run(target), run(0), strict=True):
        assert torch.equal(spoilt[[0, 2]], right[[0, 2]])
    losses, x, of_parameters = run(target)
    assert math.isnan(losses[1])
    assert x[1, :6].isnan().all()
    assert of_parameters[1].isnan().any()
