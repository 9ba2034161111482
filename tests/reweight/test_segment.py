"""Each segment gets the weights that it would get as a row by itself."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from transforms import IN_THE_BACKWARD

from multimax import kernels, reweight

LENGTHS = torch.tensor([3, 0, 1, 20, 7, 0, 2, 50, 0])
INDEX = torch.arange(len(LENGTHS)).repeat_interleave(LENGTHS)
PTR = torch.cat([torch.zeros(1, dtype=torch.int64), LENGTHS.cumsum(0)])
N, SEGMENTS = int(LENGTHS.sum()), len(LENGTHS)
FUNCTIONS = {
    "softmax": {},
    "sparsemax": {},
    "entmax15": {},
    "entmax": {},
    "entmax 1.01": {"alpha": 1.01},
    "entmax 1.5": {"alpha": 1.5},
    "entmax 1": {"alpha": 1.0},
    "evsoftmax": {},
    "evsoftmax epsilon": {"epsilon": 0.1},
    "multimax": {},
    "multimax per_head": {"per_head": True},
    "temperature": {},
}


def build(name, num_heads=None):
    module = reweight.create(name.split()[0], num_heads=num_heads, **FUNCTIONS[name]).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return module


def drawn(*shape, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_each_segment_is_a_row(name, scale):
    module, scores = build(name, num_heads=3), drawn(N, 3, scale=scale)
    weights = reweight.segment(module, scores, ptr=PTR)
    for rows in torch.arange(N).split(LENGTHS.tolist()):
        alone = module(scores[rows].T.unsqueeze(1)).squeeze(1).T if len(rows) else scores[rows]
        torch.testing.assert_close(weights[rows], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_order_of_the_entries_does_not_matter(name):
    scores, order = drawn(N), torch.randperm(N, generator=torch.Generator().manual_seed(2))
    module = build(name)
    expected = reweight.segment(module, scores, ptr=PTR)
    torch.testing.assert_close(reweight.segment(module, scores[order], INDEX[order]), expected[order])
    torch.testing.assert_close(reweight.segment(module, scores, INDEX, num_segments=SEGMENTS + 3), expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives(name):
    module, scores = build(name, num_heads=2), drawn(12, 2).requires_grad_()
    index = torch.tensor([0, 2, 2, 0, 4, 4, 4, 4, 2, 4, 4, 4])

    def of(scores, *_):
        return reweight.segment(module, scores, index)

    assert gradcheck(of, (scores, *module.parameters()))
    assert gradgradcheck(of, (scores, *module.parameters()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_is_computed_in_float32(name, dtype):
    module, scores = build(name).float(), drawn(N).to(dtype)
    weights = reweight.segment(module, scores, INDEX)
    assert torch.equal(weights, reweight.segment(module, scores.float(), INDEX).to(dtype))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (5, 0), (5, 2, 3)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_shape(name, shape):
    if name == "multimax per_head" and len(shape) == 1:
        pytest.skip("it has heads")
    scores = torch.randn(shape, requires_grad=True)
    weights = reweight.segment(build(name).float(), scores, torch.zeros(shape[0], dtype=torch.int64), num_segments=2)
    weights.sum().backward()
    assert weights.shape == scores.grad.shape == shape


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("kernel_mode", ["auto", "eager"])
def test_a_segment_of_nan_leaves_the_others_alone(name, kernel_mode):
    module, scores = build(name), drawn(N)
    hidden = scores.masked_fill(INDEX == 3, torch.nan).requires_grad_()
    with kernels.use(kernel_mode):
        expected, weights = (reweight.segment(module, x, INDEX) for x in (scores, hidden))
    (gradient,) = torch.autograd.grad(weights[INDEX != 3].square().sum(), hidden)
    assert torch.equal(weights[INDEX != 3], expected[INDEX != 3])
    assert weights[INDEX == 3].isnan().all()
    assert gradient[INDEX != 3].isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("kernel_mode", ["auto", "eager"])
def test_one_segment_of_nearly_all(name, kernel_mode):
    """It is longer than what a thread takes at once; beside it there are only two tiny segments."""
    module, scores = build(name), drawn(40_003)
    index = torch.zeros(len(scores), dtype=torch.int64)
    index[[7, 20_000, 40_002]] = torch.tensor([2, 1, 2])
    with kernels.use(kernel_mode):
        weights = reweight.segment(module, scores, index)
    torch.testing.assert_close(weights[index == 0], module(scores[index == 0][None, None])[0, 0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(weights[index == 1], torch.ones(1, dtype=torch.float64))


@pytest.mark.skipif(kernels.path(torch.zeros(1)) != "cpp", reason="there is no C++ compiler")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_without_kernels(name):
    module, order = build(name, num_heads=3), torch.randperm(N, generator=torch.Generator().manual_seed(2))
    scores, grad = drawn(N, 3)[order].requires_grad_(), torch.randn(N, 3, dtype=torch.float64)
    found = []
    for mode in ("auto", "eager"):
        with kernels.use(mode):
            weights = reweight.segment(module, scores, INDEX[order])
        found.append((weights, *torch.autograd.grad(weights, [scores, *module.parameters()], grad)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["softmax", "entmax15", "entmax", "evsoftmax", "multimax"])
def test_no_graph_break(name):
    torch.compiler.reset()
    module, scores = build(name, num_heads=3).float(), drawn(N, 3).float().requires_grad_()

    def weigh(scores, index):
        return reweight.segment(module, scores, index, num_segments=SEGMENTS)

    weights = torch.compile(weigh, fullgraph=True, backend="aot_eager")(scores, INDEX)
    expected, leaves = weigh(scores, INDEX), [scores, *module.parameters()]
    torch.testing.assert_close(weights, expected)
    for ours, theirs in zip(*(torch.autograd.grad(w.square().sum(), leaves) for w in (weights, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["softmax", "entmax15", "multimax"])
def test_export_with_any_number_of_entries(name):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.function = build(name)

        def forward(self, scores, index):
            return reweight.segment(self.function, scores, index, num_segments=SEGMENTS)

    n = torch.export.Dim("n", min=2)
    program = torch.export.export(Model(), (drawn(5), INDEX[:5]), dynamic_shapes=({0: n}, {0: n}))
    torch.testing.assert_close(program.module()(drawn(N), INDEX), Model()(drawn(N), INDEX))


@pytest.mark.skipif(kernels.path(torch.zeros(1)) != "cpp", reason="there is no C++ compiler")
def test_the_operator_is_registered_as_torch_wants_it():
    scores, (ranges, ts) = drawn(N, 3).requires_grad_(), (torch.randn(3, 4, dtype=torch.float64) for _ in range(2))
    operator = torch.ops.multimax.segment_forward.default
    of_multimax = ranges.requires_grad_(), ts.requires_grad_(), (1, 1, 2, 2), 0.0, "multimax"
    torch.library.opcheck(operator, (scores, INDEX, SEGMENTS, *of_multimax))
    torch.library.opcheck(operator, (scores, INDEX, SEGMENTS, None, None, (), 1.5, "entmax"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms(name):
    module, scores, tangent = build(name, num_heads=3), drawn(2, N, 3), torch.randn(N, 3, dtype=torch.float64)

    def weigh(scores):
        return reweight.segment(module, scores, INDEX, num_segments=SEGMENTS)

    found = torch.vmap(weigh)(scores)
    torch.testing.assert_close(found, torch.stack([weigh(sample) for sample in scores]))
    jacobian = torch.autograd.functional.jacobian(weigh, scores[0])
    _, along = torch.func.jvp(weigh, (scores[0],), (tangent,))
    torch.testing.assert_close(along, (jacobian * tangent).sum((-2, -1)))
    for transform in IN_THE_BACKWARD:
        for found, expected in transform(weigh, (scores[0],)):
            torch.testing.assert_close(found, expected)


def test_softmax_is_that_of_pyg():
    softmax = pytest.importorskip("torch_geometric.utils").softmax
    scores = drawn(N, 4)
    torch.testing.assert_close(reweight.segment("softmax", scores, INDEX), softmax(scores, INDEX))
    torch.testing.assert_close(reweight.segment("softmax", scores, ptr=PTR), softmax(scores, ptr=PTR))


def test_a_gat_trains_with_it():
    geometric = pytest.importorskip("torch_geometric.nn")

    class SparseGAT(geometric.GATConv):
        def edge_update(self, alpha_j, alpha_i, edge_attr, index, ptr, dim_size):
            alpha = alpha_j if alpha_i is None else alpha_j + alpha_i
            alpha = torch.nn.functional.leaky_relu(alpha, self.negative_slope)
            alpha = reweight.segment("entmax15", alpha, index, num_segments=dim_size)
            return torch.nn.functional.dropout(alpha, self.dropout, self.training)

    torch.manual_seed(0)
    layer, edges = SparseGAT(6, 5, heads=3, concat=False), torch.randint(30, (2, 150))
    features, targets = torch.randn(30, 6), torch.randint(5, (30,))
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(layer(features, edges), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    _, (_, alpha) = layer(features, edges, return_attention_weights=True)
    assert (alpha == 0).any()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "pass one of the two"),
        ({"index": INDEX, "ptr": PTR}, ValueError, "pass one of the two"),
        ({"index": INDEX.int()}, TypeError, "index must be int64"),
        ({"index": INDEX[:-1]}, ValueError, "index must have one entry for each of the 83 scores, got 82"),
        ({"index": INDEX - 1}, ValueError, "index must be from 0 to 6, got -1"),
        ({"index": INDEX, "num_segments": 3}, ValueError, "index must be from 0 to 2, got 7"),
        ({"index": INDEX, "num_segments": 3.0}, TypeError, "num_segments must be an int"),
        ({"index": INDEX, "num_segments": -1}, ValueError, "num_segments must be at least 0"),
        ({"index": INDEX, "num_segments": 2**70}, ValueError, "num_segments must be at most"),
        ({"index": INDEX, "function": reweight.softmax}, TypeError, "a name or a Reweighting, got function"),
        ({"ptr": PTR, "num_segments": 3}, ValueError, "num_segments must be 9"),
        ({"ptr": PTR + 1}, ValueError, "ptr must rise from 0 to 83"),
        ({"ptr": PTR.flip(0)}, ValueError, "ptr must rise"),
        ({"ptr": PTR[:-2]}, ValueError, "ptr must rise"),
        ({"index": INDEX, "function": "sigmoid"}, ValueError, "'sigmoid' has no form for segments"),
        ({"index": INDEX, "function": reweight.create("entmax", alpha=3)}, ValueError, "'Entmax' has no form"),
        ({"index": INDEX, "function": "entmx"}, ValueError, "did you mean 'entmax'"),
        (
            {"index": INDEX, "function": reweight.MultiMax(num_heads=3, per_head=True)},
            ValueError,
            r"must be \[n, heads\]",
        ),
        ({"index": INDEX, "function": reweight.Entmax(num_heads=3)}, ValueError, r"must be \[n, heads\]"),
        (
            {"index": INDEX, "function": reweight.Entmax(num_heads=3), "scores": drawn(N, 2, 3)},
            ValueError,
            r"must be \[n, heads\]",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(arguments, error, words):
    with pytest.raises(error, match=words) as raised:
        reweight.segment(**{"function": "softmax", "scores": drawn(N)} | arguments)
    assert "\n" not in str(raised.value)
