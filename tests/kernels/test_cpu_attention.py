"""Attention in blocks on the CPU equals the reference in float64."""

import pytest
import torch
from function_kinds import WITH_KERNEL
from hypothesis import given, settings
from hypothesis import strategies as st
from transforms import IN_THE_BACKWARD

from benchmarks.timing import peak_memory
from multimax import kernels, reweight
from multimax.attention import attention

OPTIONS = {"multimax": {"per_head": True, "num_heads": 3}, "entmax": {"num_heads": 3}}
FUNCTIONS = {
    **{name: lambda name=name: reweight.create(name, **OPTIONS.get(name, {})) for name in WITH_KERNEL},
    "first order": lambda: reweight.MultiMax(order=1),
    "second order alone": lambda: reweight.MultiMax(order="second_only"),
    "shared ranges": lambda: reweight.MultiMax(shared_ranges=True),
    "one alpha": lambda: reweight.Entmax(per_head=False),
    "alpha 1.25": lambda: reweight.Entmax(alpha=1.25),
    "epsilon": lambda: reweight.EvSoftmax(epsilon=0.01),
}

# Queries and batch, so that a head is one block, several parts of one block each, or several blocks in one part.
SIZES = {"one block": (6, 2), "parts": (600, 2), "blocks": (300, 11)}

pytestmark = pytest.mark.skipif(kernels.path(torch.zeros(1)) != "cpp", reason="there is no C++ compiler")


def case(name, batch=2, queries=6, keys=7, dim=5, value_dim=4, dtype=torch.float64, seed=0, scale=1.0):
    torch.manual_seed(seed)
    query, key, value = (
        torch.randn(batch, 3, n, d, dtype=dtype) for n, d in ((queries, dim), (keys, dim), (keys, value_dim))
    )
    module = FUNCTIONS[name]()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return (query * scale).requires_grad_(), key.requires_grad_(), value.requires_grad_(), module.to(dtype)


def check(query, key, value, module, mask=None, tolerance=1e-9, **options):
    """Compare outputs and gradients; tensors among ``options`` get gradients too."""
    learned = {name: option for name, option in options.items() if isinstance(option, torch.Tensor)}
    wide = [t.detach().double().requires_grad_() for t in (query, key, value, *learned.values())]
    wide_options = options | dict(zip(learned, wide[3:], strict=True))
    expected = attention(*wide[:3], module.double(), mask, backend="reference", **wide_options)
    incoming = torch.randn_like(expected)
    right = torch.autograd.grad(expected, [*wide, *module.parameters()], incoming)
    module.to(query.dtype)
    leaves = [query, key, value, *learned.values(), *module.parameters()]
    output = attention(query, key, value, module, mask, backend="blocked", **options)
    assert output.dtype == value.dtype
    found = torch.autograd.grad(output, leaves, incoming.to(output.dtype))
    for gradient, other in zip((output, *found), (expected, *right), strict=True):
        torch.testing.assert_close(gradient.double(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_the_reference(name, size):
    queries, batch = SIZES[size]
    mask = torch.rand(batch, 1, queries, 7, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[0, 0, 1] = False  # a query that may attend to nothing
    check(*case(name, batch, queries))
    check(*case(name, batch, queries), mask)
    check(*case(name, batch, queries), mask[1, 0], scale=0.3)
    check(*case(name, batch, queries), mask[1, 0, 0])


EXTRAS = {
    "softcap": {"softcap": 1.5},
    "sink": {"sink": (3,)},
    "one sink": {"sink": ()},
    "bias": {"bias": (2, 3, 300, 7)},
    "bias of all batches": {"bias": (3, 300, 7)},
    "bias of all heads": {"bias": (2, 1, 300, 7)},
    "bias of keys": {"bias": (7,)},
    "bias of queries": {"bias": (1, 3, 300, 1)},
    "all": {"softcap": 0.7, "sink": (3,), "bias": (3, 300, 7), "scale": 0.9},
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("extras", EXTRAS)
def test_what_the_scores_are_made_of_besides(name, extras):
    """With masks whose rows have a run of live keys, gaps, or no live key."""
    generator = torch.Generator().manual_seed(3)
    options = {
        key: torch.randn(option, generator=generator, dtype=torch.float64).requires_grad_()
        if isinstance(option, tuple)
        else option
        for key, option in EXTRAS[extras].items()
    }
    scattered = torch.rand(2, 1, 300, 7, generator=generator) > 0.5
    scattered[0, 0, 1] = False
    for mask in (None, torch.ones(300, 7).tril().bool(), torch.ones(300, 7).triu(-1).bool(), scattered):
        check(*case(name, 2, 300), mask, **options)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softcaps_are_as_exact_as_torch_has_them(scale, dtype):
    query = (scale * torch.linspace(-2, 2, 401, dtype=dtype)).view(1, 1, 401, 1)
    key = torch.tensor([[[[1.0], [0.0]]]], dtype=dtype)
    found = attention(query, key, key, reweight.softmax, softcap=1.0, scale=1.0, backend="blocked")
    right = attention(
        *(t.double() for t in (query, key, key)), reweight.softmax, softcap=1.0, scale=1.0, backend="reference"
    )
    torch.testing.assert_close(found.double(), right, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_keys_behind_what_a_block_reaches(name):
    """A block leaves out the keys behind its last live one, also where earlier blocks reach further, or less far."""
    position = torch.arange(600)[:, None]
    causal = torch.arange(20) <= position // 40
    for mask in (causal, causal.flip(0), causal[300:] & (position[300:] % 300 > 260), torch.zeros(1, 1).bool()):
        check(*case(name, 12, max(300, len(mask)), 20), mask)


@pytest.mark.parametrize("layout", ["heads last", "one tensor", "expanded", "columns"])
def test_any_layout(layout):
    query, key, value, module = case("multimax", 2, 7, 7, 4, 4)
    if layout == "heads last":
        tensors = [t.detach().transpose(1, 2).contiguous().transpose(1, 2) for t in (query, key, value)]
    elif layout == "one tensor":
        tensors = list(torch.stack([query, key, value], 2).detach().unbind(2))
    elif layout == "expanded":
        tensors = [t[:1, :1].detach().expand_as(t) for t in (query, key, value)]
    else:
        tensors = [t.detach().mT.contiguous().mT for t in (query, key, value)]
    check(*(t.requires_grad_() for t in tensors), module)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(FUNCTIONS)),
    batch=st.integers(0, 3),
    queries=st.integers(0, 20) | st.integers(250, 550),
    keys=st.integers(0, 20),
    dim=st.integers(1, 9),
    value_dim=st.integers(1, 9),
    live=st.sampled_from([None, 0.0, 0.3, 1.0]),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_any_shape(name, batch, queries, keys, dim, value_dim, live, scale, seed):
    arguments = case(name, batch, queries, keys, dim, value_dim, seed=seed, scale=scale)
    mask = None if live is None else torch.rand(batch, 3, queries, keys) < live
    check(*arguments, mask, tolerance=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_other_dtypes(name, dtype, tolerance):
    *tensors, module = case(name, dtype=dtype)
    module.float()
    wide = [t.detach().float() for t in tensors]
    expected = attention(*wide, module, backend="reference")
    torch.testing.assert_close(
        attention(*tensors, module, backend="blocked").float(), expected, rtol=tolerance, atol=tolerance
    )
    if dtype == torch.float32:
        check(*tensors, module, tolerance=tolerance)


@pytest.mark.parametrize(
    ("dtype", "cast", "tolerance"), [(torch.float32, torch.bfloat16, 0.05), (torch.float64, torch.float64, 1e-9)]
)
def test_autocast_is_as_for_the_reference(dtype, cast, tolerance):
    """Which leaves float64 alone. A backward within it is as exact with a graph as without."""
    *tensors, module = case("multimax", dtype=dtype)
    leaves = [*tensors, *module.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        expected = attention(*tensors, module, backend="reference")
        output = attention(*tensors, module, backend="blocked")
        incoming = torch.randn_like(output)
        plain, graph = (
            torch.autograd.grad(output, leaves, incoming, retain_graph=True, create_graph=graph)
            for graph in (False, True)
        )
    assert output.dtype == expected.dtype == cast
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    for one, other in zip(plain, graph, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["multimax", "entmax"])
def test_parameters_get_the_same_bits_each_time(name):
    *tensors, module = case(name, 3, 600, 60, 8, 8, dtype=torch.float32)
    bias, sink = torch.randn(3, 600, 60, requires_grad=True), torch.randn(3, requires_grad=True)
    found, threads = [], torch.get_num_threads()
    try:
        for torch_threads in (1, 2, 2, 3):
            torch.set_num_threads(torch_threads)
            output = attention(*tensors, module, bias=bias, sink=sink, backend="blocked")
            found.append(torch.autograd.grad(output.square().sum(), [*tensors, bias, sink, *module.parameters()]))
    finally:
        torch.set_num_threads(threads)
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_twice_differentiable():
    *tensors, module = case("multimax")
    mask = torch.rand(2, 3, 6, 7) > 0.3
    mask[..., 0] = True
    bias, sink = (torch.randn(3, *shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 7), ()))
    options, leaves = {"bias": bias, "sink": sink, "softcap": 2.0}, [*tensors, bias, sink, *module.parameters()]

    def attend(*tensors):
        return attention(*tensors[:3], module, mask, softcap=2.0, bias=tensors[3], sink=tensors[4], backend="blocked")

    def slopes(backend):
        output = attention(*tensors, module, mask, **options, backend=backend).square().sum()
        first = torch.autograd.grad(output, leaves, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves)

    assert torch.autograd.gradcheck(attend, (*tensors, bias, sink))
    for found, right in zip(slopes("blocked"), slopes("reference"), strict=True):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_gradient_that_can_be_differentiated_is_the_same(name):
    """Even if one argument is computed from another, or is the same tensor."""
    query, _, _, module = case(name)
    output = attention(query, query, query.sin(), module, backend="blocked")
    leaves = [query, *module.parameters()]
    plain, differentiable = (
        torch.autograd.grad(output.sin().sum(), leaves, retain_graph=True, create_graph=graph)
        for graph in (False, True)
    )
    torch.testing.assert_close(differentiable, plain)


@pytest.mark.parametrize("transform", IN_THE_BACKWARD)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms_of_the_backward(name, transform):
    *tensors, module = case(name)
    sink = torch.randn(3, dtype=torch.float64)

    def attend(query, key, value, sink):
        return attention(query, key, value, module, sink=sink, softcap=2.0, backend="blocked")

    for found, expected in transform(attend, (*(t.detach() for t in tensors), sink)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_output_can_be_changed_in_place(name):
    query, key, value, module = case(name)
    output = attention(query, key, value, module, backend="blocked")
    (right,) = torch.autograd.grad((output + value.sum(-2, keepdim=True)).square().sum(), query, retain_graph=True)
    output += value.sum(-2, keepdim=True)
    (found,) = torch.autograd.grad(output.square().sum(), query)
    torch.testing.assert_close(found, right)


def test_no_matrix_of_all_queries_by_all_keys():
    """The peak that torch's profiler counts grows with the length, not with its square.

    The profiler does not see what the threads hold: three blocks of up to 256 queries each.
    """
    peaks = []
    for length in (256, 1024):
        *tensors, module = case("multimax", 11, length, length, 8, 8, dtype=torch.float32)

        def step(tensors=tensors, module=module):
            attention(*tensors, module, backend="blocked").sum().backward()

        peaks.append(peak_memory(step, torch.device("cpu")))
    assert peaks[1] < 5 * peaks[0]
    assert peaks[1] < 4 * 33 * 1024**2 / 4  # a quarter of the scores' bytes


@pytest.mark.parametrize("name", ["multimax", "sparsemax", "entmax", "evsoftmax"])
def test_no_graph_break(name):
    torch.compiler.reset()
    *tensors, module = case(name, dtype=torch.float32)
    mask = torch.rand(2, 1, 6, 7) > 0.3

    def attend(query, key, value, mask):
        return attention(query, key, value, module, mask, backend="blocked")

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    leaves = [*tensors, *module.parameters()]
    expected, output = attend(*tensors, mask), compiled(*tensors, mask)
    torch.testing.assert_close(output, expected)
    for found, right in zip(
        torch.autograd.grad(output.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(found, right)


def test_operators_are_registered_as_torch_wants_them():
    query, key, value, module = case("multimax", dtype=torch.float32)
    ranges, ts = (p.detach().view(3, 4).requires_grad_() for p in (module.ranges, module.ts))
    operator = torch.ops.multimax.attention_forward.default
    bias, sink = torch.randn(1, 3, 6, 7, requires_grad=True), torch.randn(3, requires_grad=True)
    of_kernel = ranges, ts, (1, 1, 2, 2), 0.0, "multimax"
    torch.library.opcheck(operator, (query, key, value, None, bias, sink, *of_kernel, 0.5, 2.0))
    torch.library.opcheck(operator, (query, key, value, None, None, None, None, None, (), 1.5, "entmax", 0.5, 0.0))
