"""Dead entries reach neither outputs nor gradients; live ones that are not finite give what the docstring says."""

from itertools import product

import pytest
import torch
from function_kinds import KINDS, served
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from multimax import attention_weights, reweight
from multimax.attention import attention

CASES = [(name, backend) for name in KINDS for backend in served(name)]


@pytest.mark.parametrize(("name", "backend"), CASES)
@pytest.mark.parametrize("length", [8, 160])
@pytest.mark.parametrize("way", ["keys", "rows", "causal", "queries"])
def test_what_is_dead_reaches_neither_outputs_nor_gradients(name, backend, length, way):
    """Keys that no query may attend to: by a mask of keys, a mask for each query or a causal one. Dead queries too."""
    check_dead(attention, name, backend, length, way)


@pytest.mark.parametrize("name", ["softmax", "multimax"])
def test_what_is_dead_reaches_nothing_in_a_graph(name):
    torch.compiler.reset()
    check_dead(torch.compile(attention, backend="aot_eager", fullgraph=True), name, None, 8, "queries")


def check_dead(attend, name, backend, length, way):
    torch.manual_seed(0)
    clean = [torch.randn(2, 2, n, 16) for n in (length, length + 3, length + 3)]
    dead_keys, dead_queries = torch.arange(length + 3) >= length, torch.zeros(length, dtype=torch.bool)
    mask = None if way == "causal" else ~dead_keys
    if way == "rows":
        mask = (torch.rand(2, 1, length, length + 3) > 0.4) & ~dead_keys
    elif way == "queries":
        dead_queries[2] = True
        mask = mask & ~dead_queries[:, None]
    module = reweight.create(name)
    found = []
    for hidden in (1.0, torch.nan, torch.inf, 1e38):
        tensors = [t.clone() for t in clean]
        for tensor, dead in zip(tensors, (dead_queries, dead_keys, dead_keys), strict=True):
            tensor[..., dead, :] = hidden
        leaves = [t.requires_grad_() for t in tensors]
        output = attend(*leaves, module, mask, causal=way == "causal", backend=backend)
        found.append((output, *torch.autograd.grad(output.square().sum(), [*leaves, *module.parameters()])))
    for clean_one, *dirty_ones in zip(*found, strict=True):
        assert clean_one.isfinite().all()
        for dirty_one in dirty_ones:
            torch.testing.assert_close(dirty_one, clean_one, rtol=1e-5, atol=1e-5)
    _, grad_query, grad_key, grad_value, *_ = found[1]
    for gradient, dead in ((grad_query, dead_queries), (grad_key, dead_keys), (grad_value, dead_keys)):
        assert not gradient[..., dead, :].any()


def traced(q, k, v, module, mask, causal):
    """Run a graph that was traced on finite tensors."""
    graph = make_fx(lambda *tensors: attention(*tensors, module, mask, causal=causal))(*map(torch.ones_like, (q, k, v)))
    return graph(q, k, v)


def batched(q, k, v, module, mask, causal):
    return vmap(lambda *tensors: attention(*tensors, module, mask, causal=causal))(q, k, v)


def compiled(q, k, v, module, mask, causal):
    return torch.compile(attention, backend="aot_eager", fullgraph=True)(q, k, v, module, mask, causal=causal)


WAYS = [(way, name, 8) for way in (attention, traced, batched, attention_weights) for name in KINDS]
WAYS += [(attention, name, 160) for name in KINDS] + [(compiled, name, 160) for name in ("softmax", "multimax")]


@pytest.mark.parametrize(("way", "name", "length"), WAYS)
@pytest.mark.parametrize("causal", [True, False])
def test_what_a_key_holds_reaches_only_the_queries_that_may_attend_to_it(way, name, length, causal):
    torch.manual_seed(0)
    torch.compiler.reset()
    module, poisoned = reweight.create(name), length - 2
    mask = None if causal else torch.arange(length)[:, None] >= torch.arange(length)
    clean = [torch.randn(1, 2, length, 16) for _ in range(3)]
    found = []
    for hidden in (None, torch.nan, torch.inf):
        leaves = [t.clone() for t in clean]
        for t in leaves[1:] if hidden is not None else []:
            t[..., poisoned, :] = hidden
        leaves = [t.requires_grad_() for t in leaves]
        if way is attention_weights:
            output = attention_weights(*leaves[:2], module, mask, causal=causal)
        else:
            output = way(*leaves, module, mask, causal=causal)
        earlier = output[..., :poisoned, :]
        found.append((earlier, torch.autograd.grad(earlier.square().sum(), leaves[0])[0][..., :poisoned, :]))
        assert hidden is None or not output[..., poisoned:, :].isfinite().all(-1).any()
    for expected, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", reweight.available())
def test_a_row_of_infinities_is_the_functions_own_on_every_backend(name):
    """The infinities are in the keys, since some backends take no bias. Nothing is masked; a graph is tried too."""
    torch.compiler.reset()
    module = reweight.create(name)
    rows = {"-inf": (-torch.inf,), "nan": (torch.nan, 0.0, 1.0)}
    for n, row, backend in product((3, 160), rows, served(name)):
        key = torch.tensor(rows[row] * n)[:n, None]
        tensors = torch.ones(1, 1, n, 1), key.expand(1, 1, n, 1), torch.randn(1, 1, n, 4)
        for mask in (None, torch.ones(n, dtype=torch.bool)):
            expected = module(key.T.expand(n, n), mask) @ tensors[2]
            output = attention(*tensors, module, mask, backend=backend, scale=1)
            torch.testing.assert_close(output, expected, equal_nan=True, msg=f"{backend}, {n} of {row}")
            if name == "softmax" and backend == "sdpa" and n == 3:  # in a graph, others take the reference
                graph = torch.compile(attention, backend="eager", fullgraph=True)
                torch.testing.assert_close(graph(*tensors, module, mask, scale=1), expected, equal_nan=True)


def test_softmax_of_infinities_has_a_value_beside_a_sink_or_below_a_softcap():
    query, key, value = torch.ones(1, 1, 160, 1), torch.full((1, 1, 160, 1), -torch.inf), torch.randn(1, 1, 160, 4)
    module = reweight.create("softmax")
    for options in ({"sink": torch.zeros(1)}, {"softcap": 1.5}):
        expected = attention(query, key, value, module, backend="reference", **options)
        assert expected.isfinite().all()
        for backend in served("softmax"):
            if backend not in ("sdpa", "flash"):
                found = attention(query, key, value, module, backend=backend, **options)
                torch.testing.assert_close(found, expected)
