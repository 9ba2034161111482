"""torch's own calls give the same when answered with softmax or with MultiMax at zero."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import multimax
from multimax.convert.calls import MASK_FLOOR, dot_product_attention, live_and_bias
from multimax.reweight import create

INF = float("inf")


def masks(queries: int, keys: int) -> dict[str, torch.Tensor | None]:
    """Masks in the forms that torch takes, each with a live key for every query."""
    live = torch.rand(queries, keys) > 0.5
    live[:, 0] = True
    bias = torch.randn(2, 4, queries, keys)
    return {
        "none": None,
        "bool": live,
        "infinite": torch.zeros(queries, keys).masked_fill(~live, -INF),
        "lowest": torch.zeros(queries, keys).masked_fill(~live, torch.finfo(torch.float32).min),
        "-1e4": torch.zeros(queries, keys).masked_fill(~live, -1e4),
        "bias": bias,
        "bias of a head": bias[:1, :, :1],
        "learned bias": bias.clone().requires_grad_(),
        "masked bias": bias.masked_fill(~live, -INF),
    }


@pytest.mark.parametrize("kind", masks(1, 1))
@pytest.mark.parametrize("function", ["softmax", "multimax"])
@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"enable_gqa": True}])
def test_dot_product_attention(kind, function, options):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, n, 8, requires_grad=True) for n in (5, 6, 6))
    if options.get("enable_gqa"):
        key, value = key[:, :2], value[:, :1]
    mask = masks(5, 6)[kind]
    reweight = create(function, **({"init": "zero"} if function == "multimax" else {}))
    ours = dot_product_attention(reweight, MASK_FLOOR, query, key, value, mask, **options)
    theirs = F.scaled_dot_product_attention(query, key, value, mask, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    inputs = [query, key, value] if mask is None or not mask.requires_grad else [query, key, value, mask]
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("queries", [3, 6, 9])
def test_causal_means_what_it_means_in_torch(queries):
    query, key, value = (torch.randn(2, 4, n, 8) for n in (queries, 6, 6))
    ours = dot_product_attention(create("softmax"), MASK_FLOOR, query, key, value, is_causal=True)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(query, key, value, is_causal=True))


def test_dropout_is_of_the_weights():
    query, key, value = torch.zeros(1, 1, 1000, 2), torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
    output = dot_product_attention(create("multimax"), MASK_FLOOR, query, key, value, dropout_p=0.25)
    kept = output != 0
    assert 0.7 < kept.float().mean() < 0.8
    torch.testing.assert_close(output[kept], torch.full_like(output[kept], 1 / 0.75))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_gives_the_dtype_that_torch_gives(dtype):
    query, key, value = (torch.randn(2, 4, 5, 8, dtype=dtype) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        ours = dot_product_attention(create("multimax"), MASK_FLOOR, query, key, value)
        assert ours.dtype == F.scaled_dot_product_attention(query, key, value).dtype == torch.bfloat16


def test_what_says_nothing_becomes_none():
    """So that kernels which take no bias, or no mask, can serve."""
    live = torch.tensor([[True, False]])
    masked = torch.zeros(1, 2).masked_fill(~live, -INF)
    assert live_and_bias(torch.zeros(2, 2)) == (None, None)
    assert live_and_bias(masked)[1] is None
    assert torch.equal(live_and_bias(masked)[0], live)
    assert live_and_bias(torch.ones(2, 2))[0] is None
    # Values cannot be looked at under vmap.
    traced = torch.func.vmap(lambda mask: live_and_bias(mask)[1])(masked.expand(3, 1, 2))
    assert torch.equal(traced, torch.zeros(3, 1, 2))


KINDS = [{}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 6, "vdim": 10}, {"bias": False}]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [*KINDS, {"add_bias_kv": True, "add_zero_attn": True}], ids=str)
def test_multi_head_attention(options, batch_first):
    torch.manual_seed(0)
    stock, ours = (nn.MultiheadAttention(16, 4, batch_first=batch_first, **options) for _ in range(2))
    ours.load_state_dict(stock.state_dict())
    multimax.convert(ours, "multimax", init="zero")
    query, key, value = torch.randn(3, 5, 16), torch.randn(3, 6, stock.kdim), torch.randn(3, 6, stock.vdim)
    tensors = [t if batch_first else t.transpose(0, 1) for t in (query, key, value)]
    dead = torch.rand(5, 6) > 0.7
    dead[:, 0] = False
    padding = torch.arange(6) >= torch.tensor([6, 3, 2])[:, None]
    of_heads = torch.randn(12, 5, 6)
    for attn_mask, key_padding_mask, need_weights, average in itertools.product(
        (None, dead, of_heads, of_heads.masked_fill(dead, -INF)),
        (None, padding, torch.zeros(3, 6).masked_fill(padding, -INF)),
        (True, False),
        (True, False),
    ):
        if attn_mask is not None and key_padding_mask is not None and attn_mask.dtype != key_padding_mask.dtype:
            continue  # torch wants both masks in one dtype
        arguments = {"attn_mask": attn_mask, "key_padding_mask": key_padding_mask, "need_weights": need_weights}
        for a, b in zip(*(m(*tensors, **arguments, average_attn_weights=average) for m in (ours, stock)), strict=True):
            if b is None:
                assert a is None
            else:
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_without_a_batch_and_causal(need_weights):
    stock, ours = (nn.MultiheadAttention(16, 4) for _ in range(2))
    ours.load_state_dict(stock.state_dict())
    multimax.convert(ours, "multimax", init="zero")
    x = torch.randn(5, 16)
    arguments = {
        "attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1),
        "is_causal": True,
        "need_weights": need_weights,
    }
    for a, b in zip(ours(x, x, x, **arguments), stock(x, x, x, **arguments), strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-6)
    with pytest.raises((ValueError, RuntimeError), match="attn_mask"):
        ours(x, x, x, is_causal=True)
