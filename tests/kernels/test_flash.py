"""Flash attention in Triton equals attention written out in float64."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("triton", reason="Triton is not installed")

from multimax import reweight
from multimax.attention import attention
from multimax.kernels.triton import flash_blocks
from multimax.kernels.triton.flash import flash_attention, supports
from multimax.reweight import multimax, softmax

ORDERS = {(1, 1): 1, (2, 2): "second_only", (1, 1, 2, 2): 2}
# Relative to the largest entry. float32 is computed without TF32. In half precision, weights and their gradients are
# rounded before they are multiplied, and the gradients depend on the rounded output.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch, device):
    """On the CPU, make blocks so small that short lengths need several, and fix the interpreter's bfloat16."""
    if device.type == "cuda":
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl

    product, truncate = InterpreterBuilder.create_dot, InterpreterBuilder.create_fp_trunc

    def create_dot(self, a, b, *rest):
        # The interpreter multiplies the bits of bfloat16 as if they were integers. float32 holds the values exactly.
        a, b = (
            TensorHandle((h.data.astype("uint32") << 16).view("float32"), tl.float32) if h.dtype == tl.bfloat16 else h
            for h in (a, b)
        )
        return product(self, a, b, *rest)

    def create_fp_trunc(self, source, kind):
        if (source.dtype.scalar, kind.scalar) != (tl.float32, tl.bfloat16):
            return truncate(self, source, kind)
        # The interpreter truncates, where a GPU rounds to nearest, ties to even.
        bits = source.data.view("uint32").astype("uint64")
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return TensorHandle(rounded.astype("uint16"), tl.bfloat16)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(InterpreterBuilder, "create_fp_trunc", create_fp_trunc)
    _use_blocks(monkeypatch, 32, 32)


def _use_blocks(monkeypatch, m: int, n: int) -> None:
    monkeypatch.setattr(flash_blocks, "choose", lambda *_: {"BLOCK_M": m, "BLOCK_N": n})


def draw(
    device: torch.device,
    shape: tuple[int, ...] = (1, 1, 40, 70),
    sizes: tuple[int, int] = (16, 16),
    powers: tuple[int, ...] = (1, 1, 2, 2),
    shared: bool = False,
    per_head: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> list[Tensor]:
    """query, key, value, ranges and ts, drawn so that every hinge bends many scores."""
    batch, heads, queries, keys = shape
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randn(batch, n, heads, size, generator=generator).transpose(1, 2).to(dtype)
        for n, size in ((queries, sizes[0]), (keys, sizes[0]), (keys, sizes[1]))
    ]
    leading = (heads,) if per_head else ()
    ranges = torch.randn(*leading, 2 if shared else len(powers), generator=generator) * 0.7
    ts = torch.randn(*leading, len(powers), generator=generator) * 0.3
    return [tensor.to(device).requires_grad_() for tensor in (*tensors, ranges, ts)]


def written_out(query, key, value, ranges, ts, powers, mask=None, causal=False, scale=None) -> Tensor:
    """Attention in the tensors' own precision, with scores and weights materialised."""
    return weights_of(query, key, ranges, ts, powers, mask, causal, scale) @ value


def weights_of(query, key, ranges, ts, powers, mask=None, causal=False, scale=None) -> Tensor:
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        mask = seen if mask is None else mask & seen
    return multimax(scores, ranges, ts, mask=mask, order=ORDERS[powers]) if powers else softmax(scores, mask=mask)


def check(leaves: list[Tensor], powers: tuple[int, ...], mask: Tensor | None = None, **options) -> None:
    """Compare output and gradients with float64."""
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    arguments = leaves if powers else [*leaves[:3], None, None]
    output = flash_attention(*arguments, powers, mask, **options)
    expected = written_out(*doubles, powers, mask, **options)
    incoming = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(output)
    output.backward(incoming)
    expected.backward(incoming.double())
    dtype = leaves[0].dtype
    assert output.dtype == dtype
    close(output, expected, dtype)
    for leaf, double in zip(leaves if powers else leaves[:3], doubles, strict=False):
        close(leaf.grad, double.grad, dtype)


def close(tensor: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    largest = expected.abs().max().item() if expected.numel() else 0.0
    # A parameter's gradient is a sum of positive and negative terms, as many as there are scores.
    tolerance = TOLERANCE[dtype] if tensor.dim() == 4 else max(TOLERANCE[dtype], 1e-4)
    torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=tolerance * max(largest, 1e-3))


@pytest.mark.parametrize("powers", ORDERS)
@pytest.mark.parametrize(("per_head", "causal"), [(False, False), (True, True)])
def test_parity(device, powers, per_head, causal):
    check(draw(device, (1, 2, 40, 70), powers=powers, per_head=per_head), powers, causal=causal)


@pytest.mark.parametrize("per_head", [False, True])
def test_ranges_shared_between_the_orders(device, per_head):
    check(draw(device, (1, 2, 40, 20), shared=True, per_head=per_head), (1, 1, 2, 2))


@pytest.mark.parametrize("lengths", [(40, 40), (70, 33), (33, 70)])
def test_without_segments_it_is_torchs_attention(device, lengths):
    query, key, value, _, _ = draw(device, (1, 1, *lengths))
    output = flash_attention(query, key, value, None, None, (), causal=True)
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), is_causal=True)
    close(output, expected, torch.float32)
    check(draw(device, (1, 1, *lengths), powers=()), ())


@pytest.mark.parametrize("name", ["softmax", "multimax"])
@pytest.mark.parametrize("with_mask", [False, True])
def test_attention_hands_over_what_it_is_given(device, name, with_mask):
    query, key, value, _, _ = draw(device, (1, 2, 40, 70))
    mask = torch.rand(40, 70, device=device) > 0.3 if with_mask else None
    module = reweight.create(name).to(device)
    options = {"causal": True, "scale": 0.3}
    expected = attention(query, key, value, module, mask, backend="reference", **options)
    close(attention(query, key, value, module, mask, backend="flash", **options), expected.double(), torch.float32)


@pytest.mark.parametrize("sizes", [(41, 41), (72, 8), (16, 130), (256, 256), (1, 1)])
def test_any_size_of_heads(device, sizes):
    check(draw(device, (1, 1, 33, 33), sizes), (1, 1, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_half_precision(device, dtype, causal):
    check(draw(device, dtype=dtype), (1, 1, 2, 2), causal=causal)


@pytest.mark.parametrize("shape", [(2, 1, 1, 40), (1, 2, 20, 40), (20, 1), (40,), (2, 2, 1, 1), (2, 1, 20, 40)])
@pytest.mark.parametrize("causal", [False, True])
def test_masks(device, shape, causal):
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.4).to(device)
    check(draw(device, (2, 2, 20, 40)), (1, 1, 2, 2), mask, causal=causal)


def test_masks_and_tensors_are_read_where_they_lie(device):
    query, key, value, ranges, ts = (leaf.detach() for leaf in draw(device, (1, 2, 70, 70), (32, 16)))
    mask = (torch.rand(70, 2, 70, generator=torch.Generator().manual_seed(0)) > 0.4).to(device).permute(1, 2, 0)[None]
    strided = query[..., ::2].requires_grad_(), key[..., :16].requires_grad_(), value.flip(2).requires_grad_()
    check([*strided, ranges.requires_grad_(), ts.requires_grad_()], (1, 1, 2, 2), mask)


def test_queries_without_a_live_key_and_keys_that_no_query_sees(device):
    leaves = draw(device)
    mask = torch.ones(40, 70, dtype=torch.bool, device=device)
    mask[3] = mask[16:32] = False
    mask[:, 32:64] = False
    query, key, value, _, _ = leaves
    output = flash_attention(*leaves, (1, 1, 2, 2), mask)
    output.backward(torch.ones_like(output))
    for dead in (output[:, :, 3], output[:, :, 16:32], query.grad[:, :, 16:32], key.grad[:, :, 32:64]):
        assert not dead.any()
    assert not value.grad[:, :, 32:64].any()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    for leaf in leaves:
        leaf.grad = None
    check(leaves, (1, 1, 2, 2), mask)


@pytest.mark.parametrize(("queries", "keys", "batch"), [(0, 5, 1), (5, 0, 1), (5, 5, 0)])
def test_nothing_to_attend(device, queries, keys, batch):
    leaves = draw(device, (batch, 2, queries, keys))
    output = flash_attention(*leaves, (1, 1, 2, 2))
    output.sum().backward()
    assert output.shape == (batch, 2, queries, 16)
    assert not output.any()
    assert not any(leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("scale", [0.0, -0.7, 300.0])
def test_scales(device, scale):
    """0: all keys alike; negative: their order reversed; large: scores in the thousands, one key gets all weight."""
    leaves = draw(device)
    with torch.no_grad():
        leaves[4][..., 2:] *= 1e-3 if scale > 1 else 1  # near a squared term of 1e7, float32 is spaced by 1
    output = flash_attention(*leaves, (1, 1, 2, 2), scale=scale)
    expected = written_out(*(leaf.double() for leaf in leaves), (1, 1, 2, 2), scale=scale)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=2e-3 if scale > 1 else 1e-5)


@pytest.mark.parametrize("magnitude", [1e6, 1e12, 1e18])
@pytest.mark.parametrize("powers", ORDERS)
def test_huge_scores_stay_finite(device, magnitude, powers):
    leaves = draw(device, powers=powers)
    with torch.no_grad():
        leaves[0] *= magnitude
        leaves[1] *= magnitude
    output = flash_attention(*leaves, powers)
    output.backward(torch.ones_like(output))
    assert output.isfinite().all()
    assert all(leaf.grad.isfinite().all() for leaf in leaves[2:])


def test_a_nan_reaches_what_is_made_of_it(device):
    leaves = draw(device)
    with torch.no_grad():
        leaves[0][0, 0, 3, 0] = torch.nan
    output = flash_attention(*leaves, (1, 1, 2, 2))
    output.backward(torch.ones_like(output))
    its_own = torch.arange(40, device=device) == 3
    for of_queries in (output, leaves[0].grad):
        assert torch.equal(of_queries.isnan().all(-1)[0, 0], its_own)
        assert torch.equal(of_queries.isnan().any(-1)[0, 0], its_own)
    assert all(leaf.grad.isnan().any() for leaf in leaves[1:])


def test_the_same_bits_each_time(device):
    def run() -> list[Tensor]:
        leaves = draw(device, per_head=True)
        seed = torch.tensor([5], device=device)
        output = flash_attention(*leaves, (1, 1, 2, 2), dropout=0.2, seed=seed)
        output.backward(torch.ones_like(output))
        return [output, *(leaf.grad for leaf in leaves)]

    for one, other in zip(run(), run(), strict=True):
        assert torch.equal(one, other)


def test_dropout_drops_the_same_weights_in_the_backward(device):
    probability = 0.3
    leaves = draw(device, (1, 2, 40, 70), (16, 70))
    # With the identity as values, the output is the weights.
    identity = torch.eye(70, device=device).expand(1, 2, 70, 70)
    seed = torch.tensor([2**40 + 7], device=device)
    options = {"dropout": probability, "seed": seed}
    with torch.no_grad():
        query, key, _, ranges, ts = leaves
        kept = flash_attention(query, key, identity, ranges, ts, (1, 1, 2, 2), **options) != 0
    assert abs(kept.float().mean().item() - (1 - probability)) < 0.03
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    query, key, value, ranges, ts = doubles
    expected = weights_of(query, key, ranges, ts, (1, 1, 2, 2)) * kept / (1 - probability) @ value
    output = flash_attention(*leaves, (1, 1, 2, 2), **options)
    incoming = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    output.backward(incoming)
    expected.backward(incoming.double())
    close(output, expected, torch.float32)
    for leaf, double in zip(leaves, doubles, strict=True):
        close(leaf.grad, double.grad, torch.float32)


def test_what_dropout_drops_depends_on_seed_and_position_alone(device, monkeypatch):
    leaves = [leaf.detach() for leaf in draw(device, (2, 2, 30, 50))]
    leaves[2] = torch.eye(50, device=device).expand(2, 2, 50, 50)

    def dropped(seed: int | None, m: int = 32, n: int = 32) -> Tensor:
        if device.type == "cpu":
            _use_blocks(monkeypatch, m, n)
        seed = None if seed is None else torch.tensor([seed], device=device)
        return flash_attention(*leaves, (1, 1, 2, 2), dropout=0.5, seed=seed) == 0

    first = dropped(1)
    assert torch.equal(first, dropped(1, 64, 128))
    assert 0.4 < (first == dropped(2)).float().mean() < 0.6
    assert 0.4 < (first[0, 0] == first[0, 1]).float().mean() < 0.6
    assert 0.4 < (first[0, 0] == first[1, 0]).float().mean() < 0.6
    torch.manual_seed(0)
    drawn = [dropped(None), dropped(None)]
    assert not torch.equal(*drawn)
    torch.manual_seed(0)
    assert torch.equal(drawn[0], dropped(None))


def _any_shape_and_mask(device, examples):
    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(
        batch=st.integers(1, 2),
        heads=st.integers(1, 2),
        queries=st.integers(1, 40),
        keys=st.integers(1, 70),
        size=st.integers(1, 40),
        powers=st.sampled_from([*ORDERS, ()]),
        flags=st.tuples(*[st.booleans()] * 3),
        over=st.one_of(st.none(), st.tuples(*[st.booleans()] * 4)),
        seed=st.integers(0, 2**31),
    )
    def holds(batch, heads, queries, keys, size, powers, flags, over, seed):
        shared, per_head, causal = flags
        shape = (batch, heads, queries, keys)
        mask = None
        if over is not None:
            mask_shape = [n if is_full else 1 for n, is_full in zip(shape, over, strict=True)]
            mask = torch.rand(mask_shape, generator=torch.Generator().manual_seed(seed)).to(device) > 0.5
        leaves = draw(device, shape, (size, size), powers, shared and len(powers) == 4, per_head, seed=seed)
        check(leaves, powers, mask, causal=causal)

    holds()


def test_any_shape_and_mask(device):
    _any_shape_and_mask(device, 12)


@pytest.mark.slow
def test_any_shape_and_mask_at_length(device):
    _any_shape_and_mask(device, 1000)


def test_memory_is_linear(device):
    leaves = draw(device)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        flash_attention(*leaves, (1, 1, 2, 2))
    assert saved
    assert max(map(torch.Size.numel, saved)) <= max(leaf.numel() for leaf in leaves)
    assert not any(shape[-2:] == (40, 70) for shape in saved)


def test_compiles_without_a_graph_break(device):
    leaves = draw(device, (1, 2, 20, 33))
    mask = (torch.rand(20, 33, generator=torch.Generator().manual_seed(0)) > 0.3).to(device)

    def attend(*leaves: Tensor) -> Tensor:
        return flash_attention(*leaves, (1, 1, 2, 2), mask, causal=True, dropout=0.1).transpose(1, 2).flatten(2) * 2

    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    torch.manual_seed(0)
    expected = torch.autograd.grad(attend(*leaves).square().sum(), leaves)
    torch.manual_seed(0)
    for one, other in zip(torch.autograd.grad(compiled(*leaves).square().sum(), leaves), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_operator_is_registered_as_torch_asks(device):
    query, key, value, ranges, ts = draw(device, (1, 1, 5, 5), per_head=True)
    arguments = (query, key, value, ranges, ts, None, None, [1, 1, 2, 2], True, 0.25, 0.0)
    torch.library.opcheck(torch.ops.multimax.flash_attention.default, arguments)


def test_autocast_casts_as_for_a_matrix_product(device):
    leaves = draw(device)
    with torch.autocast(device.type, torch.bfloat16):
        output = flash_attention(*leaves, (1, 1, 2, 2))
    assert output.dtype == torch.bfloat16
    close(output, written_out(*(leaf.double() for leaf in leaves), (1, 1, 2, 2)), torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda q, k, v: (q[0], k, v, None), "4 dimensions"),
        (lambda q, k, v: (q.double(), k.double(), v.double(), None), "float64"),
        (lambda q, k, v: (q, k.half(), v, None), "float16"),
        (lambda q, k, v: (q, k.repeat(1, 2, 1, 1), v, None), "do not fit"),
        (lambda q, k, v: (q, k, v[:, :, 1:], None), "do not fit"),
        (lambda q, k, v: (q, k, v.repeat(1, 1, 1, 17), None), "sizes"),
        (lambda q, k, v: (q, k, v, torch.zeros(40, 70, device=q.device)), "bool"),
        (lambda q, k, v: (q, k, v, torch.ones(40, 60, dtype=torch.bool, device=q.device)), "broadcast"),
    ],
)
def test_it_says_why_it_cannot_serve(device, change, reason):
    query, key, value, ranges, ts = draw(device)
    assert supports(query, key, value) is None
    query, key, value, mask = change(query, key, value)
    assert reason in supports(query, key, value, mask)
    with pytest.raises(ValueError, match=reason):
        flash_attention(query, key, value, ranges, ts, (1, 1, 2, 2), mask)


def test_parameters_that_do_not_fit(device):
    query, key, value, ranges, ts = draw(device)
    for wrong in (
        (ranges[:3], ts),
        (ranges, ts[:2]),
        (ranges.expand(3, 4), ts.expand(3, 4)),
        (None, None),
    ):
        with pytest.raises(ValueError, match=r"ranges|ts"):
            flash_attention(query, key, value, *wrong, (1, 1, 2, 2))
    with pytest.raises(ValueError, match="powers"):
        flash_attention(query, key, value, ranges, ts, (1, 2, 2, 2))
    with pytest.raises(ValueError, match="dropout"):
        flash_attention(query, key, value, ranges, ts, (1, 1, 2, 2), dropout=1.0)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "size"),
    [*product([torch.bfloat16], [16, 64, 72, 128, 256]), (torch.float16, 64), (torch.float32, 64)],
    ids=str,
)
@pytest.mark.parametrize("causal", [False, True])
def test_real_sizes(device, dtype, size, causal):
    """Only a few sizes, since three kernels are compiled for each."""
    mask = torch.rand(2, 1, 1, 1500, device=device) > 0.2
    for batch, lengths, one in ((64, (196, 196), None), (2, (1000, 1500), mask)):
        leaves = draw(device, (batch, 3, *lengths), (size, size), per_head=True, dtype=dtype)
        check(leaves, (1, 1, 2, 2), one, causal=causal)


@pytest.mark.gpu
def test_a_long_sequence_takes_linear_memory(device):
    leaves = draw(device, (1, 4, 32768, 32768), (64, 64), dtype=torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output = flash_attention(*leaves, (1, 1, 2, 2), causal=True)
    output.sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 20 * output.numel() * output.element_size()
