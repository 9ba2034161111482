"""Attention with any reweighting against one query at a time, written out."""

import pytest
import torch

from multimax import reweight
from multimax.attention import attention

HEADS, QUERIES, KEYS, DIM = 3, 4, 5, 8


def inputs(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(2, HEADS, n, DIM, generator=generator, dtype=torch.float64) for n in (QUERIES, KEYS, KEYS)
    )
    mask = torch.rand(2, 1, QUERIES, KEYS, generator=generator) > 0.4
    mask[0, 0, 1] = False  # a query that may attend to nothing
    mask[..., 0, 0] = True
    return query, key, value, mask


@pytest.mark.parametrize("name", reweight.available())
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_one_query_at_a_time_over_its_live_keys(name, with_bias):
    query, key, value, mask = inputs()
    attend = reweight.create(name, num_heads=HEADS).double()
    bias = torch.randn(HEADS, QUERIES, KEYS, dtype=torch.float64) if with_bias else None
    output = attention(query, key, value, attend, mask, bias=bias)
    for b in range(2):
        for q in range(QUERIES):
            live = mask[b, 0, q]
            scores = torch.einsum("hd,hkd->hk", query[b, :, q], key[b]) / DIM**0.5
            scores = scores if bias is None else scores + bias[:, q]
            weights = attend(scores[:, live].unsqueeze(1)).squeeze(1)
            expected = torch.einsum("hk,hkd->hd", weights, value[b][:, live])
            torch.testing.assert_close(output[b, :, q], expected)


@pytest.mark.parametrize("name", reweight.available())
def test_a_dead_key_has_no_influence_and_no_gradient(name):
    query, key, value, _ = inputs()
    attend = reweight.create(name, num_heads=HEADS).double()
    mask = torch.ones(QUERIES, KEYS, dtype=torch.bool)
    mask[:, 2] = False
    key.requires_grad_()
    value.requires_grad_()
    output = attention(query, key, value, attend, mask)
    output.square().sum().backward()
    assert key.grad[:, :, 2].abs().max() == 0
    assert value.grad[:, :, 2].abs().max() == 0
    changed = key.detach().clone()
    changed[:, :, 2] = 1e6
    torch.testing.assert_close(attention(query, changed, value, attend, mask), output, rtol=0, atol=0)


@pytest.mark.parametrize("name", reweight.available())
def test_a_mask_over_keys_alone_holds_for_every_query(name):
    query, key, value, _ = inputs()
    attend = reweight.create(name, num_heads=HEADS).double()
    mask = torch.tensor([True, False, True, True, False])
    expected = attention(query, key, value, attend, mask.expand(2, HEADS, QUERIES, KEYS))
    torch.testing.assert_close(attention(query, key, value, attend, mask), expected)


def test_dropout_zeroes_weights_and_keeps_the_mean():
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 2000, 4), torch.zeros(1, 1, 10, 4)
    value = torch.eye(10)[None, None]
    weights = attention(query, key, value, reweight.create("sparsemax"), dropout=0.25)
    assert (weights == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert weights.sum(-1).mean().item() == pytest.approx(1, abs=0.02)
