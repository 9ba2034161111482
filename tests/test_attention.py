"""Attention with any reweighting against one query at a time, written out; and which path it takes."""

import pytest
import torch

from multimax import kernels, reweight
from multimax.attention import attention, attention_path

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


@pytest.mark.parametrize("name", reweight.available())
@pytest.mark.parametrize("with_mask", [False, True])
def test_causal_is_the_mask_that_it_stands_for(name, with_mask):
    query, key, value, mask = inputs()
    attend = reweight.create(name, num_heads=HEADS).double()
    up_to_own = torch.tensor([[k <= q for k in range(KEYS)] for q in range(QUERIES)])
    expected = attention(query, key, value, attend, mask & up_to_own if with_mask else up_to_own, backend="reference")
    for backend in ("reference", None, *(["blocked"] if kernels.path(query) == "cpp" else [])):
        output = attention(query, key, value, attend, mask if with_mask else None, causal=True, backend=backend)
        torch.testing.assert_close(output, expected, msg=str(backend))


def test_dropout_zeroes_weights_and_keeps_the_mean():
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 2000, 4), torch.zeros(1, 1, 10, 4)
    value = torch.eye(10)[None, None]
    weights = attention(query, key, value, reweight.create("sparsemax"), dropout=0.25)
    assert (weights == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert weights.sum(-1).mean().item() == pytest.approx(1, abs=0.02)


def path(name, shape=(1, 2, 64, 16), dtype=torch.float32, **options):
    query = torch.zeros(1, dtype=dtype).expand(shape)
    return attention_path(query, query, query, reweight.create(name, num_heads=shape[1]), **options)


needs_kernels = pytest.mark.skipif(kernels.path(torch.zeros(1)) != "cpp", reason="there is no C++ compiler")
DEIT_S, LONG = (64, 6, 196, 64), (1, 8, 4096, 64)
MASK = torch.ones(1, dtype=torch.bool)
BIAS = torch.zeros(1)


def test_softmax_takes_pytorchs_kernels_but_for_a_bias():
    for shape in (DEIT_S, LONG):
        assert path("softmax", shape, mask=MASK, dropout=0.1) == "sdpa"
        assert path("softmax", shape, bias=BIAS) == "reference"


@needs_kernels
@pytest.mark.parametrize("name", [name for name in reweight.available() if name != "softmax"])
def test_what_pays_goes_in_blocks_on_the_cpu(name):
    assert path(name) == "reference"
    assert path(name, DEIT_S, dtype=torch.bfloat16) == "reference"
    with torch.autocast("cpu", torch.bfloat16):
        assert path(name, DEIT_S) == "reference"
    assert path(name, DEIT_S) == path(name, LONG, dtype=torch.bfloat16) == "blocked"
    assert path(name, LONG) == path(name, LONG, mask=MASK) == "blocked"
    assert path(name, LONG, bias=BIAS) == path(name, LONG, dropout=0.1) == "reference"
    with kernels.use("eager"):
        assert path(name, LONG) == "reference"


@needs_kernels
def test_who_waits_for_the_weights_gets_them():
    module = reweight.create("multimax")
    query = torch.zeros(1).expand(LONG)
    for register in (module.register_forward_hook, module.register_forward_pre_hook):
        handle = register(lambda *_: None)
        assert attention_path(query, query, query, module) == "reference"
        handle.remove()
    assert attention_path(query, query, query, module) == "blocked"


def test_a_function_of_the_user_takes_the_reference():
    @reweight.register("halves")
    def halves(scores, mask=None):
        return reweight.softmax(scores / 2, mask)

    assert path("halves", LONG) == "reference"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("multimax", {"backend": "fastest"}, "must be one of reference, sdpa"),
        ("multimax", {"backend": "sdpa"}, "it is for softmax, not MultiMax"),
        ("multimax", {"backend": "blocked", "bias": BIAS}, "it takes no bias"),
        ("multimax", {"backend": "blocked", "dropout": 0.1}, "it has no dropout|needs the C"),
        ("sparsemax", {"backend": "flash"}, "it is for MultiMax and softmax, not Sparsemax"),
        ("evsoftmax", {"backend": "adasplash"}, "it is for entmax, not EvSoftmax"),
        ("entmax", {"backend": "adasplash"}, "adasplash"),
    ],
)
def test_a_backend_that_cannot_serve_says_why(name, options, message):
    query, key, value, _ = inputs()
    with pytest.raises(ValueError, match=message):
        attention(query, key, value, reweight.create(name, num_heads=HEADS).double(), **options)


@needs_kernels
@pytest.mark.parametrize("name", reweight.available())
def test_backends_agree(name):
    query, key, value, mask = inputs()
    attend = reweight.create(name, num_heads=HEADS).double()
    expected = attention(query, key, value, attend, mask, backend="reference", scale=0.3)
    others = ["blocked", None, *(["sdpa"] if name == "softmax" else [])]
    for backend in others:
        torch.testing.assert_close(
            attention(query, key, value, attend, mask, backend=backend, scale=0.3), expected, msg=str(backend)
        )
