"""MultiMax compared with its formula, differentiated by autograd."""

import pytest
import torch
from torch import relu

from multimax import kernels, reweight
from multimax.formulas.multimax import seglu_formula

pytestmark = pytest.mark.parametrize("_path", ["require", "eager"], indirect=True)


# Order, number of ranges, number of ts, and their places among the formula's four hinges and two cubes.
CASES = {
    "first": (1, 2, 2, [0, 1]),
    "second only": ("second_only", 2, 2, [2, 3]),
    "both": (2, 4, 4, [0, 1, 2, 3]),
    "both, shared": (2, 2, 4, [0, 1, 2, 3]),
    "three": (3, 6, 6, [0, 1, 2, 3, 4, 5]),
    "three, shared": (3, 2, 6, [0, 1, 2, 3, 4, 5]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("per_head", [False, True])
def test_parity_with_the_formula(case, per_head):
    order, num_ranges, num_ts, hinges = CASES[case]
    heads = (3,) if per_head else ()
    leaves = [torch.randn(2, 3, 5, 7), torch.randn(*heads, num_ranges), torch.randn(*heads, num_ts)]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    x, ranges, ts = leaves
    # k comes first, and heads line up with the scores' heads
    r, t = (p.T[:, :, None, None] if per_head else p for p in (ranges, ts))
    of_hinges = dict(zip(hinges, zip([*r, *r, *r], t, strict=False), strict=True))
    r, t = zip(*(of_hinges.get(i, (0, 0)) for i in range(6)), strict=True)
    modulated = seglu_formula(x, r, t) + t[4] * relu(r[4] - x) ** 3 + t[5] * relu(x - r[5]) ** 3
    torch.testing.assert_close(reweight.seglu(x, ranges, ts, order=order), modulated)
    ours, theirs = reweight.multimax(x, ranges, ts, order=order), modulated.softmax(-1)
    torch.testing.assert_close(ours, theirs)
    incoming = torch.randn_like(ours)
    gradients = [torch.autograd.grad(weights, leaves, incoming) for weights in (ours, theirs)]
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize(
    ("options", "num_ranges", "num_ts"),
    [
        ({}, 4, 4),
        ({"order": 1}, 2, 2),
        ({"order": "second_only"}, 2, 2),
        ({"order": 3}, 6, 6),
        ({"order": 3, "shared_ranges": True}, 2, 6),
        ({"shared_ranges": True}, 2, 4),
        ({"per_head": True}, 24, 24),
        ({"per_head": True, "shared_ranges": True}, 12, 24),
    ],
)
def test_parameter_counts(options, num_ranges, num_ts):
    attend = reweight.create("multimax", num_heads=6, **options)
    assert attend.ranges.shape == (num_ranges,)
    assert attend.ts.shape == (num_ts,)


def test_initial_values():
    torch.manual_seed(0)
    drawn = torch.cat([torch.cat([m.ranges, m.ts]) for m in (reweight.create("multimax") for _ in range(500))])
    assert abs(drawn.mean()) < 0.001
    assert abs(drawn.std() - 0.02) < 0.001
    zero = reweight.create("multimax", init="zero")
    scores = torch.randn(4, 9)
    if kernels.mode() == "eager":
        assert torch.equal(zero(scores), torch.softmax(scores, -1))
    torch.testing.assert_close(zero(scores), torch.softmax(scores, -1), rtol=5e-7, atol=0)
    assert not zero.ts.any()
    assert zero.ranges.all()


def test_without_parameters_to_speak_of_it_is_softmax_at_any_magnitude():
    scores = torch.tensor([3e38, 2e38, -3e38])
    nothing = torch.zeros(4)
    assert torch.equal(reweight.multimax(scores, nothing, nothing), torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("size", [-5.0, 5.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_parameters_do_not_overflow(size, dtype):
    top = torch.finfo(dtype).max
    scores = torch.tensor([[top, -top, 0, 1], [top, top, -top, -top]], dtype=dtype, requires_grad=True)
    ranges, ts = torch.zeros(4, dtype=dtype), torch.full((4,), size, dtype=dtype)
    for signs in ([1, 1, 1, 1], [1, 1, -1, -1], [-1, 1, 1, -1]):
        leaves = [scores, ranges.requires_grad_(), (ts * torch.tensor(signs)).requires_grad_()]
        weights = reweight.multimax(*leaves)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, dtype=dtype))
        gradients = torch.autograd.grad(weights[:, 0].sum(), leaves)
        assert not any(gradient.isnan().any() for gradient in gradients)


def test_modulated_scores_decide_the_order():
    attend = reweight.create("multimax", order=1)
    with torch.no_grad():
        attend.ranges.zero_()
        attend.ts.copy_(torch.tensor([0.0, -2.0]))  # reverses the order of scores above 0
    scores = torch.tensor([1.0, 2.0, -3.0])
    assert attend.modulate(scores).argmax() == attend(scores).argmax() == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"order": 4}, "order must be"),
        ({"init": "ones"}, "init must be"),
        ({"order": 1, "shared_ranges": True}, "order 2 or 3"),
    ],
)
def test_impossible_options_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        reweight.create("multimax", **options)


def test_parameters_that_do_not_fit_are_refused():
    scores = torch.randn(2, 3, 4, 5)
    for ranges, ts, word in [
        (torch.zeros(3), torch.zeros(4), "ranges must be"),
        (torch.zeros(4), torch.zeros(2), "ts must be"),
        (torch.zeros(2, 4), torch.zeros(4), "2 heads"),
    ]:
        with pytest.raises(ValueError, match=word):
            reweight.multimax(scores, ranges, ts)


def test_a_gradient_that_can_be_differentiated_is_the_same_also_where_scores_are_made_from_the_parameters():
    ts = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
    weights = reweight.multimax(ts.sin() @ torch.randn(3, 4, 7, dtype=torch.float64), ts, ts)
    plain, differentiable = (
        torch.autograd.grad(weights.square().sum(), ts, retain_graph=True, create_graph=graph)[0]
        for graph in (False, True)
    )
    torch.testing.assert_close(differentiable, plain)
