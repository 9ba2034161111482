"""Attention with any reweighting equals a plain loop over the queries, and takes the expected path."""

import pytest
import torch
from function_kinds import KINDS, WITH_KERNEL, served
from torch.utils.flop_counter import FlopCounterMode

from multimax import kernels, reweight
from multimax.attention import attention, attention_path
from multimax.attention_backends import Reference

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


@pytest.mark.parametrize("name", KINDS)
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


@pytest.mark.parametrize("name", KINDS)
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


@pytest.mark.parametrize("name", KINDS)
def test_a_mask_over_keys_alone_holds_for_every_query(name):
    query, key, value, _ = inputs()
    attend = reweight.create(name, num_heads=HEADS).double()
    mask = torch.tensor([True, False, True, True, False])
    expected = attention(query, key, value, attend, mask.expand(2, HEADS, QUERIES, KEYS))
    torch.testing.assert_close(attention(query, key, value, attend, mask), expected)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("with_mask", [False, True])
def test_causal_is_the_mask_that_it_stands_for(name, with_mask):
    query, key, value, mask = inputs()
    attend = reweight.create(name, num_heads=HEADS).double()
    up_to_own = torch.tensor([[k <= q for k in range(KEYS)] for q in range(QUERIES)])
    expected = attention(query, key, value, attend, mask & up_to_own if with_mask else up_to_own, backend="reference")
    for backend in ("reference", None, *(["blocked"] if name in WITH_KERNEL and kernels.path(query) == "cpp" else [])):
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
        assert path("softmax", shape, bias=BIAS) != "sdpa"


@needs_kernels
@pytest.mark.parametrize("name", [name for name in WITH_KERNEL if name != "softmax"])
def test_what_pays_goes_in_blocks_on_the_cpu(name):
    assert path(name) == "reference"
    assert path(name, DEIT_S, dtype=torch.bfloat16) == "reference"
    with torch.autocast("cpu", torch.bfloat16):
        assert path(name, DEIT_S) == "reference"
    assert path(name, DEIT_S) == path(name, LONG, dtype=torch.bfloat16) == "blocked"
    assert path(name, LONG) == path(name, LONG, mask=MASK) == "blocked"
    assert path(name, LONG, bias=BIAS, softcap=2.0, sink=torch.zeros(1)) == "blocked"
    assert path(name, LONG, dropout=0.1) == "reference"
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
        return reweight.softmax(scores / 2, mask=mask)

    assert path("halves", LONG) == "reference"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("multimax", {"backend": "fastest"}, "must be one of sdpa, blocked"),
        ("multimax", {"backend": "sdpa"}, "it is for softmax, not MultiMax"),
        ("softmax", {"backend": "sdpa", "bias": BIAS}, "it takes no bias"),
        ("multimax", {"backend": "blocked", "dropout": 0.1}, "it has no dropout|needs the C"),
        ("sparsemax", {"backend": "flash"}, "it is for MultiMax and softmax, not Sparsemax"),
    ],
)
def test_a_backend_that_cannot_serve_says_why(name, options, message):
    query, key, value, _ = inputs()
    with pytest.raises(ValueError, match=message):
        attention(query, key, value, reweight.create(name, num_heads=HEADS).double(), **options)


@needs_kernels
@pytest.mark.parametrize("name", WITH_KERNEL)
def test_backends_agree(name):
    query, key, value, mask = inputs()
    attend = reweight.create(name, num_heads=HEADS).double()
    expected = attention(query, key, value, attend, mask, backend="reference", scale=0.3)
    others = ["blocked", None, *(["sdpa"] if name == "softmax" else [])]
    for backend in others:
        torch.testing.assert_close(
            attention(query, key, value, attend, mask, backend=backend, scale=0.3), expected, msg=str(backend)
        )


CASES = [(name, backend) for name in KINDS for backend in served(name)]
Q = torch.zeros(2, 4, 5, 8)
K = torch.zeros(2, 4, 6, 8)
WRONG = [
    ({"query": Q.long()}, TypeError, "query must be floating point"),
    ({"query": Q.tolist()}, TypeError, "query must be a tensor, got list"),
    ({"key": torch.zeros(8)}, ValueError, "key must be"),
    ({"key": K.double()}, TypeError, "key must be in the dtype of the query"),
    ({"value": K.half()}, TypeError, "value must be in the dtype of the query"),
    ({"key": K[..., :7]}, ValueError, "the same last dimension, got 8 and 7"),
    ({"value": K[..., :5, :]}, ValueError, "the same length, got 6 and 5"),
    ({"key": K[:, :3], "value": K[:, :3]}, ValueError, "key and value neither broadcast nor group"),
    ({"key": torch.nested.nested_tensor([K[0], K[1, :, :3]])}, TypeError, "key .* nested one; pad it .* a bool mask"),
    ({"key": K.to("meta")}, ValueError, "key must be on cpu"),
    ({"mask": torch.ones(5, 6)}, TypeError, "mask must be bool .*; for an additive one pass mask == 0"),
    ({"mask": torch.ones(5, 6, dtype=torch.long)}, TypeError, "mask must be bool .*zeros pass mask == 1"),
    ({"mask": torch.ones(5, 7, dtype=torch.bool)}, ValueError, "mask of shape"),
    ({"mask": torch.ones(5, 6, dtype=torch.bool, device="meta")}, ValueError, "mask must be on cpu"),
    ({"mask": [[True] * 6] * 5}, TypeError, "mask must be a tensor"),
    ({"bias": torch.zeros(5, 7)}, ValueError, "bias of shape"),
    ({"bias": torch.zeros(5, 6).bool()}, TypeError, "bias must be floating point"),
    ({"bias": torch.zeros(5, 6).double()}, TypeError, "bias must be in the dtype"),
    ({"bias": 0.5}, TypeError, "bias must be a tensor"),
    ({"scale": "half"}, TypeError, "scale must be a number, got str"),
    ({"scale": torch.ones(())}, TypeError, "scale must be a number, got Tensor"),
    ({"scale": torch.inf}, ValueError, "scale must be finite"),
    ({"softcap": 0.0}, ValueError, "softcap must be above 0"),
    ({"softcap": True}, TypeError, "softcap must be a number"),
    ({"sink": 0.5}, TypeError, "sink must be a tensor"),
    ({"sink": torch.zeros(4).long()}, TypeError, "sink must be floating point"),
    ({"sink": torch.zeros(3)}, ValueError, r"sink of shape \(3,\)"),
    ({"sink": torch.zeros(4, 1)}, ValueError, r"sink of shape \(4, 1\)"),
    ({"window": 0}, ValueError, "window must be at least 1"),
    ({"window": 2.0}, TypeError, "window must be an int"),
    ({"dropout": 1.0}, ValueError, "dropout must be at least 0 and below 1"),
    ({"dropout": -0.1}, ValueError, "dropout must be at least 0 and below 1"),
    ({"dropout": torch.nan}, ValueError, "dropout must be finite"),
    ({"dropout": True}, TypeError, "dropout must be a number"),
    ({"causal": torch.ones(5, 6).bool()}, TypeError, "causal must be a bool"),
    ({"reweight": "multimax"}, TypeError, "reweight.create"),
    ({"reweight": reweight.MultiMax}, TypeError, "got the class MultiMax"),
    ({"backend": "fastest"}, ValueError, "there is no backend 'fastest'"),
    ({"backend": torch.ones(3, 1)}, TypeError, "backend must be a name or None, got Tensor"),
]


@pytest.mark.parametrize(("change", "kind", "message"), WRONG, ids=lambda part: part if isinstance(part, str) else "")
def test_wrong_arguments_end_in_one_line_on_every_backend(change, kind, message):
    for name, backend in CASES:
        arguments = {"query": Q, "key": K, "value": K, "reweight": reweight.create(name), "backend": backend} | change
        with pytest.raises(kind, match=message) as raised:
            attention(**arguments)
        assert len(str(raised.value).splitlines()) == 1


def test_a_function_is_as_good_as_a_module():
    query, key, value, mask = inputs()
    expected = attention(query, key, value, reweight.create("sparsemax"), mask, backend="reference")
    torch.testing.assert_close(attention(query, key, value, reweight.sparsemax, mask), expected)
    with pytest.raises(ValueError, match="it is for softmax, not Sparsemax"):
        attention(query, key, value, reweight.sparsemax, mask, backend="sdpa")


@pytest.mark.parametrize("name", KINDS)
def test_one_head_of_keys_serves_all_queries(name):
    query, key, value, mask = inputs()
    module = reweight.create(name, num_heads=HEADS).double()
    key, value = key[:, :1], value[:, :1]
    whole = (t.expand(-1, HEADS, -1, -1) for t in (key, value))
    expected = attention(query, *whole, module, mask)
    torch.testing.assert_close(attention(query, key, value, module, mask), expected)


class Doubled(Reference):
    name = "doubled"

    def run(self, call):
        return 2 * super().run(call)


def test_a_function_brings_a_backend_of_its_own():
    class Mine(type(reweight.create("sparsemax"))):
        attention_backends = (Doubled(),)

    query, key, value, mask = inputs()
    expected = attention(query, key, value, reweight.create("sparsemax"), mask)
    assert attention_path(query, key, value, Mine(), mask) == "doubled"
    torch.testing.assert_close(attention(query, key, value, Mine(), mask), 2 * expected)
    torch.testing.assert_close(attention(query, key, value, Mine(), mask, backend="reference"), expected)
    below = type("Below", (Mine,), {"forward": lambda self, scores, mask=None: reweight.sparsemax(scores, mask=mask)})()
    torch.testing.assert_close(attention(query, key, value, below, mask), expected)


@pytest.mark.parametrize("name", KINDS)
def test_flops_are_those_of_the_products(name):
    """The counter's hooks force a call of the module. A backward counts even if its forward ran before."""
    query, key, value = (torch.randn(2, 3, n, d, requires_grad=True) for n, d in ((20, 8), (30, 8), (30, 5)))
    product, module = 2 * 2 * 3 * 20 * 30, reweight.create(name)
    with FlopCounterMode(display=False) as counter:
        output = attention(query, key, value, module)
        assert counter.get_total_flops() == product * (8 + 5)
        output.sum().backward()
    assert counter.get_total_flops() == 3 * product * (8 + 5)
    if "blocked" in served(name):
        output = attention(query, key, value, module, backend="blocked")
        with FlopCounterMode(display=False) as counter:
            output.sum().backward()
        assert counter.get_total_flops() == product * (3 * 8 + 2 * 5)  # the backward computes the scores once more
