"""The package adasplash against entmax attention written out in float64, and when it is not asked."""

from functools import partial

import pytest
import torch

from multimax.kernels import adasplash as ours
from multimax.reweight import entmax

adasplash_block_mask = pytest.importorskip("adasplash.adasplash_block_mask", reason="adasplash is not installed")


def draw(device, shape=(1, 1, 128, 16), dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize(("alpha", "causal"), [(1.5, True), (1.25, False)])
def test_parity(device, monkeypatch, alpha, causal):
    if device.type == "cpu":  # it asks for "cuda" by name in one place
        count = partial(adasplash_block_mask.compute_bidxs_and_cubcounts, device="cpu")
        monkeypatch.setattr(adasplash_block_mask, "compute_bidxs_and_cubcounts", count)
        monkeypatch.setattr(ours, "supports", lambda *_: None)
    leaves = draw(device)
    query, key, value = doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    mask = torch.ones(128, 128, dtype=torch.bool, device=device).tril() if causal else None
    expected = entmax(query @ key.mT * 0.4, alpha, mask=mask) @ value
    output = ours.flash_entmax(*leaves, alpha, causal=causal, scale=0.4)
    incoming = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(device)
    output.backward(incoming)
    expected.backward(incoming.double())
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-5)
    for leaf, double in zip(leaves, doubles, strict=True):
        torch.testing.assert_close(leaf.grad.double(), double.grad, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "alpha", "options", "reason"),
    [
        ((1, 1, 128, 16), torch.tensor(1.5), {}, "gradient of alpha"),
        ((1, 1, 128, 16), 1.0, {}, "above 1"),
        ((1, 1, 128, 16), 1.5, {"dropout": 0.1}, "dropout"),
        ((1, 1, 128, 16), 1.5, {"mask": torch.ones(128, dtype=torch.bool)}, "mask"),
        ((1, 1, 64, 16), 1.5, {}, "power of two"),
        ((1, 1, 196, 16), 1.5, {}, "power of two"),
        ((1, 1, 128, 48), 1.5, {}, "size of the heads"),
        ((1, 128, 16), 1.5, {}, "batch, heads"),
    ],
)
def test_it_says_why_it_cannot_serve(shape, alpha, options, reason):
    tensor = torch.zeros(shape)
    assert reason in ours.supports(tensor, tensor, tensor, alpha, **options)


def test_a_tensor_on_the_cpu_is_refused():
    tensor = torch.zeros(1, 1, 128, 16)
    with pytest.raises(ValueError, match="GPU"):
        ours.flash_entmax(tensor, tensor, tensor, 1.5)
