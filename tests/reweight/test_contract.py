"""What every reweighting function guarantees, whatever its formula."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

HEADS = 3
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

quick = settings(max_examples=25, deadline=None)


@st.composite
def scores_and_mask(draw, dtypes=DTYPES, masked=True):
    """Scores [batch, heads, queries, n] of any dtype and size, with ties, and a mask that broadcasts to them."""
    shape = (draw(st.integers(1, 2)), HEADS, draw(st.integers(1, 3)), draw(st.integers(1, 40)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = torch.randn(shape, generator=generator, dtype=torch.float64) * draw(st.sampled_from([0, 1e-4, 1, 10, 100]))
    if draw(st.booleans()):
        scores = scores.round()
    scores = scores.to(draw(st.sampled_from(dtypes)))
    if not masked:
        return scores, None
    mask_shape = [size if draw(st.booleans()) else 1 for size in shape][draw(st.integers(0, 3)) :]
    return scores, torch.rand(mask_shape, generator=generator) < draw(st.sampled_from([0.2, 0.7, 1.0]))


def resolution(dtype):
    return 16 * torch.finfo(dtype).eps


@quick
@given(data=scores_and_mask())
def test_weights_are_of_the_live_entries_and_sum_to_one_where_the_traits_say_so(make, data):
    scores, mask = data
    attend = make()
    weights = attend(scores, mask)
    live = mask.expand_as(scores)
    assert weights.dtype == scores.dtype
    assert weights.shape == scores.shape
    assert (weights >= 0).all()
    assert (weights[~live] == 0).all()
    if attend.sums_to_one:
        torch.testing.assert_close(
            weights.double().sum(-1), live.any(-1).double(), rtol=0, atol=40 * torch.finfo(scores.dtype).eps
        )


@quick
@given(data=scores_and_mask())
def test_masked_weights_are_those_of_the_row_without_its_dead_entries(make, data):
    scores, mask = data
    attend = make()
    weights = attend(scores, mask)
    live = mask.expand_as(scores)
    tolerance = resolution(scores.dtype)
    for b, h, q in torch.cartesian_prod(*map(torch.arange, scores.shape[:-1])).tolist():
        row = scores[b, h, q][live[b, h, q]]
        alone = attend(row.expand(HEADS, 1, -1))[h, 0]
        torch.testing.assert_close(weights[b, h, q][live[b, h, q]], alone, rtol=tolerance, atol=tolerance)


@quick
@given(data=scores_and_mask(), garbage=st.sampled_from([math.nan, math.inf, -math.inf, 60000.0]))
def test_dead_entries_change_nothing_and_get_no_gradient(make, data, garbage):
    scores, mask = data
    attend = make()
    results = []
    for filling in (0.0, garbage):
        leaf = scores.masked_fill(~mask, filling).requires_grad_()
        weights = attend(leaf, mask)
        incoming = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)).to(weights.dtype)
        results.append([weights, *torch.autograd.grad(weights, [leaf, *attend.parameters()], incoming)])
    for clean, filled in zip(*results, strict=True):
        assert torch.equal(clean, filled)
    assert (results[1][1][~mask.expand_as(scores)] == 0).all()


@quick
@given(data=scores_and_mask(masked=False))
def test_a_mask_of_all_true_is_no_mask(make, data):
    scores, _ = data
    attend = make()
    torch.testing.assert_close(attend(scores, torch.ones_like(scores, dtype=torch.bool)), attend(scores))


@quick
@given(data=scores_and_mask(masked=False), seed=st.integers(0, 100))
def test_a_permutation_of_the_scores_permutes_the_weights(make, data, seed):
    scores, _ = data
    attend = make()
    order = torch.randperm(scores.shape[-1], generator=torch.Generator().manual_seed(seed))
    tolerance = resolution(scores.dtype)
    torch.testing.assert_close(attend(scores[..., order]), attend(scores)[..., order], rtol=tolerance, atol=tolerance)


@quick
@given(data=scores_and_mask(masked=False))
def test_weights_are_in_the_order_of_the_modulated_scores(make, data):
    scores, _ = data
    attend = make()
    modulated = attend.modulate(scores.double())
    sorted_weights = attend(scores.double()).gather(-1, modulated.argsort(-1))
    assert (sorted_weights.diff(dim=-1) >= -1e-12).all()


@quick
@given(data=scores_and_mask(dtypes=[torch.float16, torch.bfloat16]))
def test_half_precision_is_computed_in_float32(make, data):
    scores, mask = data
    attend = make()
    assert torch.equal(attend(scores, mask), attend(scores.float(), mask).to(scores.dtype))
    attend = attend.to(scores.dtype)
    of_parameters = copy.deepcopy(attend).float()(scores.float(), mask)
    assert torch.equal(attend(scores, mask), of_parameters.to(scores.dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_extreme_scores_give_finite_weights_and_no_nan_in_gradients(make, dtype, masked):
    top = torch.finfo(dtype).max
    rows = [
        [top, -top, 0, top],
        [top, top, top, top],
        [-top, -top, -top, -top],
        [top, top / 2, top / 4, -top],
        [0, -top, -top, -top],
        [1e30, -1e30, 1, 0],
        [-1e30, -2e30, -1e30, -1.5e30],
        [1e4, 1e4, -1e4, 0],
        [1e-40, 0, -1e-40, 0],
        [0, 0, 0, 0],
    ]
    scores = torch.tensor(rows, dtype=torch.float64).clamp(-top, top).to(dtype)
    scores = scores.expand(HEADS, -1, -1).clone().requires_grad_()
    mask = torch.tensor([True, True, False, True]) if masked else None
    attend = make()
    attend = attend.double() if dtype == torch.float64 else attend
    weights = attend(scores, mask)
    assert weights.isfinite().all()
    if attend.sums_to_one:
        torch.testing.assert_close(weights.double().sum(-1), torch.ones(HEADS, len(rows)).double(), rtol=0, atol=1e-2)
    gradients = torch.autograd.grad(weights.double().square().sum(), [scores, *attend.parameters()])
    assert not any(gradient.isnan().any() for gradient in gradients)
    if attend.sums_to_one:
        assert attend(scores[:, 1:2]).allclose(torch.tensor(0.25, dtype=dtype))


def test_a_row_of_zeros_has_a_moderate_slope(make):
    scores = torch.zeros(HEADS, 1, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(make()(scores)[..., 0].sum(), scores)
    assert slope.abs().max() < 10


def test_equal_scores_get_equal_weights(make):
    for n in (1, 2, 7, 1000):
        attend = make()
        weights = attend(torch.full((HEADS, 1, n), 0.3, dtype=torch.float64))
        expected = torch.full_like(weights, 1 / n) if attend.sums_to_one else weights[..., :1].expand_as(weights)
        torch.testing.assert_close(weights, expected)


def test_live_nan_is_not_hidden(make):
    scores = torch.tensor([1.0, math.nan, 0.0]).expand(HEADS, 1, 3)
    assert make()(scores).isnan().any()


def test_empty_rows_are_zero_beside_full_ones(make):
    scores = torch.randn(2, HEADS, 4, 5, requires_grad=True)
    mask = torch.tensor([True, False, True, False])[:, None].expand(4, 5)
    attend = make()
    weights = attend(scores, mask)
    (gradient,) = torch.autograd.grad(weights.square().sum(), scores)
    assert (weights[..., 1::2, :] == 0).all()
    assert (gradient[..., 1::2, :] == 0).all()
    torch.testing.assert_close(weights[..., ::2, :], attend(scores[..., ::2, :]))


@pytest.mark.parametrize("shape", [(0,), (1,), (6,), (4, 6), (0, 6), (4, 0), (2, 0, 3, 5), (2, 3, 0), (2, 2, 2, 2, 6)])
@pytest.mark.parametrize("masked", [False, True])
def test_any_shape(make, shape, masked):
    scores = torch.randn(shape, requires_grad=True)
    attend = make(num_heads=None)
    weights = attend(scores, torch.ones(shape, dtype=torch.bool) if masked else None)
    assert weights.shape == shape
    weights.sum().backward()
    assert scores.grad.shape == shape
    if scores.dim() > 1 and scores.numel():
        torch.testing.assert_close(weights.reshape(-1, shape[-1])[-1], attend(scores.reshape(-1, shape[-1])[-1]))


def test_strides_do_not_matter(make):
    scores = torch.randn(9, 4, 2, HEADS, dtype=torch.float64).permute(2, 3, 1, 0)
    mask = (torch.rand(9, 4) > 0.3).T
    torch.testing.assert_close(make()(scores, mask), make()(scores.contiguous(), mask.contiguous()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast_changes_neither_dtype_nor_weights(make, dtype):
    scores = torch.randn(2, HEADS, 4, 5).to(dtype)
    mask = torch.rand(4, 5) > 0.3
    attend = make()
    with torch.autocast("cpu", torch.bfloat16):
        inside = [attend(scores), attend(scores, mask)]
    for weights, outside in zip(inside, [attend(scores), attend(scores, mask)], strict=True):
        assert torch.equal(weights, outside)
        assert weights.dtype == dtype


def test_the_default_device_is_for_no_intermediate_result(make):
    attend, scores = make(), torch.randn(2, HEADS, 4, 5, requires_grad=True)
    mask = torch.rand(4, 5) > 0.3
    found = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            weights = attend(scores, mask)
            found.append([weights, *torch.autograd.grad(weights.square().sum(), [scores, *attend.parameters()])])
    torch.testing.assert_close(*found)


def test_parameters_are_one_dimensional_and_survive_a_copy(make):
    attend = make()
    assert all(parameter.dim() == 1 for parameter in attend.parameters())
    twin = copy.deepcopy(attend)
    twin.load_state_dict(attend.state_dict())
    scores = torch.randn(HEADS, 4, 5)
    assert torch.equal(twin(scores), attend(scores))


def test_wrong_arguments_are_named_in_one_line(make):
    attend = make()
    scores = torch.randn(2, HEADS, 4, 5)
    for error, word, arguments in [
        (TypeError, "floating point", (scores.long(),)),
        (ValueError, "0-d", (torch.tensor(1.0),)),
        (TypeError, "mask must be bool", (scores, torch.zeros(5))),
        (ValueError, "does not broadcast", (scores, torch.ones(4, dtype=torch.bool))),
        (ValueError, "does not broadcast", (scores[0], torch.ones(2, HEADS, 4, 5, dtype=torch.bool))),
    ]:
        with pytest.raises(error, match=word) as raised:
            attend(*arguments)
        assert "\n" not in str(raised.value)
    if list(attend.parameters()):
        with pytest.raises(ValueError, match="must be on cpu, where the scores are, got meta"):
            attend.to("meta")(scores)
