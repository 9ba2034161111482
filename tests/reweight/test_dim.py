"""The functions along any dimension, and passed to attention as they are."""

from functools import partial

import pytest
import torch

from multimax import attention, reweight
from multimax.attention import attention_path

RANGES, TS = torch.tensor([-0.3, 0.4, -1.0, 1.0]), torch.tensor([0.5, -0.5, 0.1, -0.1])
FUNCTIONS = {
    "softmax": reweight.softmax,
    "sparsemax": reweight.sparsemax,
    "entmax15": reweight.entmax15,
    "entmax": partial(reweight.entmax, alpha=1.3),
    "evsoftmax": reweight.evsoftmax,
    "multimax": partial(reweight.multimax, ranges=RANGES, ts=TS),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dim", [-3, -2, -1, 0, 1, 2])
@pytest.mark.parametrize("mask_shape", [None, (4, 1, 6), (5, 6), (6,)])
def test_along_a_dimension_it_is_the_function_of_its_slices(name, dim, mask_shape):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 5, 6, generator=generator)
    mask = None if mask_shape is None else torch.rand(mask_shape, generator=generator) > 0.3
    found = FUNCTIONS[name](scores, dim=dim, mask=mask)
    live = torch.ones(4, 5, 6, dtype=torch.bool) if mask is None else mask.expand(4, 5, 6)
    slices = FUNCTIONS[name](scores.movedim(dim, -1).contiguous(), mask=live.movedim(dim, -1).contiguous())
    torch.testing.assert_close(found, slices.movedim(-1, dim))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_dim_is_the_last(name):
    scores = torch.randn(4, 5, 6)
    assert torch.equal(FUNCTIONS[name](scores, dim=None), FUNCTIONS[name](scores, dim=-1))


def test_alpha_broadcasts_wherever_dim_is():
    scores, alpha = torch.randn(4, 5, 6), torch.tensor([1.2, 1.5, 1.7, 2.0, 2.5])[:, None]
    found = reweight.entmax(scores.movedim(-1, 0), alpha.T, 0)
    torch.testing.assert_close(found.movedim(0, -1), reweight.entmax(scores, alpha))


@pytest.mark.parametrize(
    ("dim", "error", "words"),
    [
        (3, ValueError, "dim must be from -2 to 1"),
        (1.0, TypeError, "dim must be an int, got float"),
        (torch.ones(5, dtype=torch.bool), TypeError, "a mask is passed as mask="),
    ],
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_dim_is_refused(name, dim, error, words):
    with pytest.raises(error, match=words):
        FUNCTIONS[name](torch.randn(4, 5), dim=dim)


@pytest.mark.parametrize("name", ["softmax", "sparsemax", "entmax15", "evsoftmax"])
@pytest.mark.parametrize("length", [8, 160])
def test_attention_takes_a_function_as_it_takes_its_module(name, length):
    query = torch.randn(1, 2, length, 16)
    mask = torch.rand(length, length) > 0.3
    function, module = getattr(reweight, name), reweight.create(name)
    assert attention_path(query, query, query, function, mask) == attention_path(query, query, query, module, mask)
    assert torch.equal(attention(query, query, query, function, mask), attention(query, query, query, module, mask))


def test_attention_takes_a_partial_of_a_function():
    query = torch.randn(1, 2, 8, 16)
    found = attention(query, query, query, FUNCTIONS["entmax"])
    torch.testing.assert_close(found, attention(query, query, query, reweight.create("entmax", alpha=1.3)))
