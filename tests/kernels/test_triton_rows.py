"""The Triton row kernels match the same functions in float64; they are interpreted where there is no GPU."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from row_kernels import ALPHAS, EPSILONS, NAMES, check, computed, draw_parameters

from multimax.kernels import operators
from multimax.kernels.triton import entmax as triton_entmax
from multimax.kernels.triton import evsoftmax as triton_evsoftmax
from multimax.kernels.triton import launch as triton_launch
from multimax.kernels.triton import multimax as triton_multimax
from multimax.kernels.triton import rows as triton_rows

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EXAMPLES = 60 if torch.cuda.is_available() else 10  # the interpreter is slow
# The interpreter warns where a row is empty or holds a NaN, or where Newton's method ends.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def arguments(name, shape, dtype, device, mask_shape=None, density=0.7, scale=2.0, per_head=False, seed=0):
    """Scores, mask, parameters and incoming gradient."""
    generator = torch.Generator().manual_seed(seed)
    scores = (scale * torch.randn(shape, generator=generator)).to(dtype).to(device)
    mask = None if mask_shape is None else (torch.rand(mask_shape, generator=generator) < density).to(device)
    heads = shape[-3] if per_head and len(shape) > 2 else 1
    parameters = [p.to(device) for p in draw_parameters(name, heads, dtype, generator)]
    return scores, mask, parameters, torch.randn(shape, generator=generator).to(dtype).to(device)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(data=st.data())
def test_weights_and_gradients(device, name, data):
    draw = data.draw
    shape = tuple(draw(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 80))))
    masked = draw(st.sampled_from([None, (1, 1, 1, 1), (1, 0, 0, 1), (0, 0, 1, 1), (1, 0, 1, 1), (1, 1, 1, 0)]))
    mask_shape = None if masked is None else [size if kept else 1 for size, kept in zip(shape, masked, strict=True)]
    scores, mask, parameters, grad = arguments(
        name,
        shape,
        draw(st.sampled_from(DTYPES)),
        device,
        mask_shape,
        draw(st.sampled_from([0.1, 0.7, 1.0])),
        draw(st.sampled_from([0.0, 1e-4, 1.0, 10.0])),
        draw(st.booleans()),
        draw(st.integers(0, 2**31)),
    )
    if draw(st.booleans()):
        scores = scores.round()  # ties
    if mask is not None:
        scores = torch.where(mask, scores, draw(st.sampled_from([math.nan, math.inf, -math.inf])))
    if draw(st.booleans()):
        scores, grad = (t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (scores, grad))
    weights, *gradients = check(name, scores, mask, parameters, grad)
    if mask is not None:
        dead = ~mask.cpu().expand(shape)
        assert not weights[dead].any()
        assert not gradients or not gradients[0][dead].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_many_rows_with_extremes_among_them(device, name, dtype):
    scores, _, parameters, grad = arguments(name, (128, 8), dtype, device, scale=1.0)
    mask = torch.ones_like(scores, dtype=torch.bool)
    scores[:16, 3:] = scores[:16, :1]  # ties, some of them of the largest entries
    scores[16:32] *= 1e-42 if dtype == torch.float32 else 1e-310  # subnormal
    mask[32:48, 1:] = False  # one live entry a row
    mask[48:64] = False  # no live entry
    scores[64:80] = scores[64:80].round()
    scores[80:96, 2] = -30 if name.startswith("multimax") else -1e4  # SegLU lifts it up to its square
    if name.startswith("multimax"):
        parameters[1][0, 2::2] = -parameters[1][0, 2::2].abs()  # but not so far that it takes all the weight
    check(name, scores, mask, parameters, grad)


@pytest.mark.parametrize("name", NAMES)
def test_scores_at_the_ends_of_their_range(device, name):
    top = torch.finfo(torch.float32).max
    rows = [[top, -top, 0, top], [top] * 4, [-top] * 4, [0, -top, -top, -top], [1e4, 1e4, -1e4, 0], [1e30, -1e30, 1, 0]]
    scores = torch.tensor(rows, device=device)
    _, _, parameters, _ = arguments(name, (6, 4), torch.float32, device)
    weights, *gradients = computed(name, scores, None, parameters, torch.ones_like(scores))
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, device=device))
    torch.testing.assert_close(weights[1:3], torch.full((2, 4), 0.25, device=device))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_rows_that_do_not_fit_one_block(device, name, masked, monkeypatch):
    for module in (triton_multimax, triton_entmax, triton_evsoftmax):
        for limit in ("FORWARD_BLOCK", "BACKWARD_BLOCK"):
            monkeypatch.setattr(module, limit, 64, raising=False)
    case = arguments(name, (2, 2, 1, 150), torch.float32, device, (2, 1, 1, 150) if masked else None, per_head=True)
    if masked:
        case[1][0] = False
        case[1][1, ..., :70] = False  # a block without a live entry
    check(name, *case)


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_is_not_swallowed(device, name):
    scores, _, parameters, grad = arguments(name, (3, 6), torch.float32, device)
    scores[1, 2] = math.nan
    weights = computed(name, scores, None, parameters, grad)[0]
    assert weights[1].isnan().all()
    assert weights[[0, 2]].isfinite().all()


@pytest.mark.parametrize("alpha", [0.9, 2.1, math.nan])
def test_an_alpha_outside_its_bounds_gives_nan_in_its_head(device, alpha):
    scores, _, _, grad = arguments("learned-alpha", (2, 3, 4, 6), torch.float32, device)
    weights, *_ = computed("learned-alpha", scores, None, [torch.tensor([1.3, alpha, 2.0], device=device)], grad)
    assert weights[:, 1].isnan().all()
    assert weights[:, ::2].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_zero_sizes(device, name, shape):
    scores, mask, parameters, grad = arguments(name, shape, torch.float32, device, shape, per_head=False)
    weights, *gradients = computed(name, scores, mask, parameters, grad)
    assert weights.shape == shape
    assert [gradient.shape for gradient in gradients] == [t.shape for t in (scores, *parameters)][: len(gradients)]
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_each_time_and_however_the_mask_lies(device, name):
    scores, mask, parameters, grad = arguments(name, (2, 3, 2, 40), torch.bfloat16, device, (2, 1, 1, 40))
    first = computed(name, scores, mask, parameters, grad)
    whole = mask.expand(scores.shape).contiguous()
    across = whole.transpose(0, 3).contiguous().transpose(0, 3)
    for again in (mask, whole, across):
        assert all(map(torch.equal, first, computed(name, scores, again, parameters, grad)))


@pytest.mark.parametrize("shape", [(2, 1, 1, 40), (2, 1, 2, 40), (1, 1, 2, 40), (2, 3, 2, 1), (40,)], ids=str)
def test_a_broadcast_mask_is_read_where_it_is(shape):
    mask = torch.ones(shape, dtype=torch.bool)
    assert triton_launch._mask_layout(mask, torch.Size([2, 3, 2, 40]))[0].data_ptr() == mask.data_ptr()


@pytest.mark.parametrize("name", ["multimax-2", "learned-alpha", "evsoftmax"])
def test_few_programs_and_long_indices(device, name, monkeypatch):
    """As if there were more rows than programs in a grid, or than an int32 can count."""
    case = arguments(name, (2, 3, 20, 30), torch.float32, device, (2, 1, 20, 30), per_head=True)
    expected = computed(name, *case)
    monkeypatch.setattr(triton_launch.Rows, "programs", lambda *_, **__: 2)
    options = triton_launch.Rows.options
    monkeypatch.setattr(
        triton_launch.Rows, "options", lambda rows, **more: options(rows, **more) | {"INDEX": triton_launch.tl.int64}
    )
    for ours, theirs in zip(computed(name, *case), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("rows", "index"), [(2**20, "int32"), (2**31, "int64")])
def test_rows_beyond_int32_are_counted_in_int64(rows, index):
    found = triton_launch.rows_of(torch.empty(rows, 4, device="meta", dtype=torch.bfloat16), None, 1, 512, 16)
    assert str(found.options()["INDEX"]) == index
    assert found.programs() <= 2**20


@pytest.mark.parametrize("name", operators._SCHEMAS)
def test_each_operator_finds_its_function(name):
    """Arguments are passed on by position. The optional weights of MultiMax's backward are given on a CPU only."""
    schema = torch._C.parse_schema(f"multimax::{name}{operators._SCHEMAS[name]}")
    arguments = [argument.name for argument in schema.arguments if not argument.has_default_value()]
    assert arguments == list(inspect.signature(getattr(triton_rows, name)).parameters)


@pytest.mark.parametrize("alpha", [1.0, 1 + 1e-6, 1.001, 1.1, 1.9, 2.0])
def test_learned_alpha_from_softmax_to_sparsemax(device, alpha):
    for dtype in (torch.float32, torch.float64):
        scores, _, _, grad = arguments("learned-alpha", (12, 9), dtype, device)
        check("learned-alpha", scores, None, [torch.tensor([alpha], dtype=dtype, device=device)], grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_backward_of_softmax_is_that_of_entmax_at_one(device, dtype):
    scores, _, _, grad = arguments("sparsemax", (12, 70), torch.float64, device)
    expected = scores.requires_grad_().softmax(-1)
    (gradient,) = torch.autograd.grad(expected, scores, grad)
    found = triton_rows.entmax_backward(grad.to(dtype), expected.detach().to(dtype), 1.0)
    torch.testing.assert_close(found.double(), gradient, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_an_entry_at_the_mean_is_kept_however_the_mean_is_rounded(device):
    distance = torch.rand(200, 1, generator=torch.Generator().manual_seed(0)).to(device)
    weights = triton_rows.evsoftmax_forward(torch.cat([-distance, 0 * distance, distance], 1), None, 0.0)
    assert (weights > 0).all(0).tolist() == [False, True, True]


def test_a_thousand_equal_scores(device):
    """Newton's method needs the most steps for many nearly equal weights."""
    scores = 1e-3 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(0)).to(device)
    scores[0] = 0.3
    for alpha in ALPHAS.values():
        weights = triton_rows.entmax_forward(scores, None, alpha)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, device=device))
        torch.testing.assert_close(weights[0], torch.full_like(weights[0], 1 / 3000))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
class TestOnGPU:
    """Sizes for which the interpreter is too slow, and behaviour that only a device has."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("n", [7, 197, 512, 1000, 4096, 16384, 32000])
    @pytest.mark.parametrize("name", NAMES)
    def test_weights_and_gradients(self, device, name, n, dtype):
        check(name, *arguments(name, (2, 3, 33, n), dtype, device, (2, 1, 33, n), scale=1.0, per_head=True))

    @pytest.mark.parametrize("name", NAMES)
    def test_the_same_bits_each_time(self, device, name):
        case = arguments(name, (64, 6, 197, 197), torch.bfloat16, device, (64, 1, 1, 197))
        first = computed(name, *case)
        assert all(all(map(torch.equal, first, computed(name, *case))) for _ in range(5))

    @pytest.mark.parametrize("name", [name for name in NAMES if name not in EPSILONS])
    def test_no_wait_for_the_device(self, device, name):
        case = arguments(name, (2, 3, 20, 197), torch.bfloat16, device)
        computed(name, *case)  # compiles the kernels
        torch.cuda.set_sync_debug_mode("error")
        try:
            computed(name, *case)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.parametrize("name", NAMES)
    def test_more_entries_than_int32_counts(self, device, name):
        rows = 2**31 // 32000 + 2
        scores = torch.zeros(rows, 32000, dtype=torch.float16, device=device)
        scores[-1, 0] = 20
        _, _, parameters, _ = arguments(name, (1, 2), torch.float16, device)
        weights = computed(name, scores, None, parameters, scores)[0]
        assert weights[-1, 0] > 0.99
        assert not weights[-1, 1:].max() > 1e-3
        torch.testing.assert_close(weights[-2].double(), torch.full_like(weights[-2], 1 / 32000).double())
