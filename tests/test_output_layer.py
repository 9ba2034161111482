"""The chunked loss of an output layer equals F.cross_entropy of its logits in float64; and the memory it takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import product
from unittest import mock

import pytest
import torch
from function_kinds import KINDS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transforms import dual_numbers_in_the_backward

from benchmarks.timing import peak_memory
from multimax import kernels, reweight
from multimax.kernels import linear_cross_entropy as chunked
from multimax.output_layer import linear_cross_entropy, linear_loss
from multimax.reweight import seglu

RANGES = {1: 2, 2: 4, "second_only": 2, "shared": 2}
WAYS = ["cpp", "eager", *(["triton"] if find_spec("triton") else [])]
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning:triton")  # of the interpreter


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """Make chunks and blocks so small that there are several, with the last ones not full."""
    monkeypatch.setattr(chunked, "CHUNK", {"cpu": 70, "cuda": 70})
    monkeypatch.setattr(chunked, "MIN_ROWS", 1)
    monkeypatch.setattr(chunked, "BLOCK", {"cpu": 30, "cuda": 30})


@contextmanager
def computed_by(way: str) -> Iterator[None]:
    """Compute by the CPU's kernels (cpp), tensor operations (eager) or the GPU's kernel, interpreted (triton)."""
    with kernels.use("eager" if way == "eager" else "auto"):
        if way == "triton":
            with mock.patch.object(kernels, "path", return_value="triton"):
                yield
        else:
            yield


def case(n=13, v=11, dim=5, order=2, kind="hard", with_bias=True, dtype=torch.float64, seed=0, scale=1.0):
    """Leaves by name and targets, all drawn from ``seed``, and the order."""
    torch.manual_seed(seed)
    leaves = {"hidden": scale * torch.randn(n, dim), "weight": torch.randn(v, dim)}
    if with_bias:
        leaves["bias"] = torch.randn(v)
    if order is not None:
        leaves["ranges"] = torch.randn(RANGES[order])
        leaves["ts"] = torch.randn(2 if order in (1, "second_only") else 4) / 2
    leaves = {name: leaf.to(dtype).requires_grad_() for name, leaf in leaves.items()}
    targets = torch.randint(v, (n,)) if kind == "hard" else torch.rand(n, v, dtype=dtype)
    if kind == "hard":
        targets[1::3] = -100
    return leaves, targets, 2 if order == "shared" else order


def reference(leaves, targets, order, **options):
    wide = {name: leaf.double() for name, leaf in leaves.items()}
    logits = F.linear(wide["hidden"], wide["weight"], wide.get("bias"))
    if order is not None:
        logits = seglu(logits, wide["ranges"], wide["ts"], order=order)
    targets = targets.double() if targets.is_floating_point() else targets
    return F.cross_entropy(logits, targets, **options)


def ours(leaves, targets, order, **options):
    modulator = None if order is None else (leaves["ranges"], leaves["ts"], order)
    return linear_cross_entropy(leaves["hidden"], leaves["weight"], targets, modulator, leaves.get("bias"), **options)


def check(leaves, targets, order, rtol=1e-9, atol=1e-9, **options):
    results = []
    for function in (reference, ours):
        loss = function(leaves, targets, order, **options)
        incoming = torch.linspace(-1, 2, loss.numel(), dtype=loss.dtype).view(loss.shape)
        gradients = torch.autograd.grad(loss, list(leaves.values()), incoming, allow_unused=True)
        results.append([loss, *gradients])
    for name, expected, found in zip(("loss", *leaves), *results, strict=True):
        torch.testing.assert_close(found.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=True, msg=name)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("order", [None, 1, 2, "second_only", "shared"])
def test_value_and_gradients(order, kind, reduction):
    for way, label_smoothing in product(WAYS, (0.0, 0.1)):
        with computed_by(way):
            check(*case(order=order, kind=kind), reduction=reduction, label_smoothing=label_smoothing)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    n=st.integers(0, 40),
    v=st.integers(1, 90),
    dim=st.integers(1, 9),
    order=st.sampled_from([None, 1, 2, "second_only", "shared"]),
    kind=st.sampled_from(["hard", "soft"]),
    with_bias=st.booleans(),
    label_smoothing=st.sampled_from([0.0, 0.3]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e3]),
    way=st.sampled_from(WAYS),
    seed=st.integers(0, 1000),
)
def test_any_shape(n, v, dim, order, kind, with_bias, label_smoothing, reduction, scale, way, seed):
    arguments = case(n, v, dim, order, kind, with_bias, seed=seed, scale=scale)
    with computed_by(way):
        check(*arguments, reduction=reduction, label_smoothing=label_smoothing)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_ignored(reduction):
    leaves, targets, order = case()
    check(leaves, torch.full_like(targets, -100), order, reduction=reduction)


def test_another_ignored_class():
    leaves, targets, order = case(kind="hard")
    targets = targets.where(targets >= 0, 3)
    check(leaves, targets, order, ignore_index=3)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_other_dtypes(dtype, tolerance, reduction):
    for way in WAYS:
        with computed_by(way):
            leaves, targets, order = case(dtype=dtype)
            assert ours(leaves, targets, order, reduction=reduction).dtype == torch.float32
            check(leaves, targets, order, rtol=tolerance, atol=10 * tolerance, reduction=reduction)


def test_float16_waits_for_the_scale_of_the_loss():
    """The gradient of the unscaled loss is too small for float16."""
    leaves, targets, order = case(dtype=torch.float16, order=None, kind="hard")
    scale = 2.0**24
    loss = ours(leaves, targets, order, reduction="sum") / scale
    (found,) = torch.autograd.grad(loss * scale, leaves["hidden"])
    (expected,) = torch.autograd.grad(reference(leaves, targets, order, reduction="sum"), leaves["hidden"])
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.02)


def test_autocast_takes_its_dtype_and_gives_gradients_in_the_parameters():
    leaves, targets, order = case(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ours(leaves, targets, order, reduction="sum")
        wide = {name: leaf.detach().double() for name, leaf in leaves.items()}  # which autocast leaves alone
        torch.testing.assert_close(ours(wide, targets, order), reference(wide, targets, order))
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    expected = torch.autograd.grad(reference(leaves, targets, order, reduction="sum"), list(leaves.values()))
    for found, right in zip(gradients, expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, right, rtol=0.05, atol=0.2)


def test_parameters_get_the_same_bits_each_time():
    leaves, targets, order = case(300, 70, 16, dtype=torch.float32)
    runs = []
    for _ in range(3):
        loss = ours(leaves, targets, order, reduction="mean")
        runs.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(leaves.values()))]))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("way", WAYS)
def test_sums_for_the_parameters_are_exact_for_a_large_vocabulary(monkeypatch, way):
    """Every entry counts in these sums, however improbable it is."""
    monkeypatch.undo()
    leaves, targets, order = case(300, 5000, 32, dtype=torch.float32, kind="hard", with_bias=False)
    with computed_by(way):
        found = torch.autograd.grad(ours(leaves, targets, order), [leaves["ranges"], leaves["ts"]])
    expected = torch.autograd.grad(reference(leaves, targets, order), [leaves["ranges"], leaves["ts"]])
    for gradient, right in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), right.double(), rtol=1e-4, atol=1e-5)


def test_operators_are_registered_as_torch_wants_them():
    leaves, targets, _ = case(order=2, dtype=torch.float32)
    tensors = [leaves[name] for name in ("hidden", "weight", "bias")]
    parameters = [leaves["ranges"], leaves["ts"]]
    targets = targets.clamp(min=0)
    counts = torch.ones(len(targets))
    operators, powers = torch.ops.multimax, (1, 1, 2, 2)
    whole = operators.linear_cross_entropy.default
    losses = operators.linear_cross_entropy_losses.default
    torch.library.opcheck(losses, (*tensors, targets, *parameters, powers, 0.1))
    for wanted in ([True] * 4, [False, True, False, False]):
        frozen = [t if t is None or is_wanted else t.detach() for t, is_wanted in zip(tensors, wanted, strict=False)]
        of_modulator = [p if wanted[3] else p.detach() for p in parameters]
        torch.library.opcheck(whole, (*frozen, targets, *of_modulator, counts, powers, 0.1, wanted))
    torch.library.opcheck(losses, (*tensors[:2], None, targets, None, None, (), 0.0))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_no_graph_break(reduction):
    torch.compiler.reset()
    leaves, targets, order = case(dtype=torch.float32)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    found = compiled(leaves, targets, order, reduction=reduction).sum()
    expected = ours(leaves, targets, order, reduction=reduction).sum()
    torch.testing.assert_close(found, expected)
    values = list(leaves.values())
    for gradient, right in zip(torch.autograd.grad(found, values), torch.autograd.grad(expected, values), strict=True):
        torch.testing.assert_close(gradient, right)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_memory_is_that_of_a_chunk(monkeypatch, reduction):
    """The peak that torch's profiler counts grows with the number of rows by less than 4 dim + 100 bytes each."""
    v, dim = 2000, 4
    monkeypatch.setattr(chunked, "CHUNK", {"cpu": 16 * v})
    monkeypatch.setattr(chunked, "BLOCK", {"cpu": 4 * v})
    peaks = {}
    for n in (64, 1024):
        leaves, targets, order = case(n, v, dim, dtype=torch.float32, kind="hard")

        def step(leaves=leaves, targets=targets, order=order):
            ours(leaves, targets, order, reduction=reduction).sum().backward()

        peaks[n] = peak_memory(step, torch.device("cpu"))
    chunk, weights, row = 4 * 16 * v, 4 * v * dim, 4 * dim + 100
    assert peaks[1024] - peaks[64] < (1024 - 64) * row
    assert peaks[1024] < 4 * chunk + 6 * weights + 1024 * row
    assert peaks[1024] < 1024 * v  # a quarter of the logits


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_tangent_in_the_backward(reduction):
    leaves, targets, order = case()

    def loss(*tensors):
        return ours(dict(zip(leaves, tensors, strict=True)), targets, order, reduction=reduction)

    for found, expected in dual_numbers_in_the_backward(loss, tuple(leaf.detach() for leaf in leaves.values())):
        torch.testing.assert_close(found, expected)


def test_it_cannot_be_differentiated_twice():
    leaves, targets, order = case()
    with pytest.raises(RuntimeError, match="differentiated twice"):
        torch.autograd.grad(ours(leaves, targets, order), leaves["hidden"], create_graph=True)


WRONG = [
    ({"reduction": "median"}, ValueError, "reduction must be"),
    ({"label_smoothing": 1.5}, ValueError, "label_smoothing must be between 0 and 1"),
    ({"label_smoothing": -0.1}, ValueError, "label_smoothing must be between 0 and 1"),
    ({"label_smoothing": "a"}, TypeError, "label_smoothing must be a number"),
    ({"ignore_index": 1.0}, TypeError, "ignore_index must be an int"),
    ({"ignore_index": 2**70}, ValueError, "ignore_index must be an int64"),
    ({"targets": torch.zeros(3, dtype=torch.long)}, ValueError, "targets must be class indices"),
    ({"targets": torch.zeros(13, dtype=torch.int32)}, TypeError, "targets must be int64"),
    ({"targets": [0] * 13}, TypeError, "targets must be a tensor"),
    ({"targets": torch.rand(13, 11, dtype=torch.float64, requires_grad=True)}, ValueError, "no gradient"),
    ({"targets": torch.zeros(13, dtype=torch.long, device="meta")}, ValueError, "targets must be on cpu"),
    ({"hidden": torch.zeros(13, 5, 1)}, ValueError, "hidden must be .N, dim."),
    ({"hidden": torch.zeros(13, 5).long()}, TypeError, "hidden must be floating point"),
    ({"weight": torch.zeros(11, 5)}, TypeError, "weight must be in the dtype of hidden"),
    ({"weight": torch.zeros(11, 4, dtype=torch.float64)}, ValueError, "the same last dimension, got 5 and 4"),
    ({"weight": torch.zeros(0, 5, dtype=torch.float64)}, ValueError, "at least one class"),
    ({"weight": torch.zeros(11, 5, dtype=torch.float64, device="meta")}, ValueError, "weight must be on cpu"),
    ({"bias": torch.zeros(10, dtype=torch.float64)}, ValueError, "one entry for each of the 11 classes"),
    ({"bias": 0.0}, TypeError, "bias must be a tensor"),
    ({"modulator": (torch.zeros(4), torch.zeros(2), 2)}, ValueError, "ts must be"),
    ({"modulator": (torch.zeros(4), torch.zeros(4), 5)}, ValueError, "order must be"),
    ({"modulator": (torch.zeros(1, 4), torch.zeros(1, 4), 2)}, ValueError, "ranges and ts must be .k."),
    ({"modulator": "seglu"}, TypeError, "modulator must be .ranges, ts, order."),
]


@pytest.mark.parametrize(("change", "kind", "message"), WRONG, ids=lambda part: part if isinstance(part, str) else "")
def test_wrong_arguments_end_in_one_line(change, kind, message):
    leaves, targets, _ = case(kind="hard")
    arguments = {"hidden": leaves["hidden"], "weight": leaves["weight"], "targets": targets} | change
    with pytest.raises(kind, match=message) as raised:
        linear_cross_entropy(**arguments)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("target", [-1, 11, 2**40])
def test_targets_outside_the_vocabulary_are_refused_on_the_cpu_and_nan_on_a_gpu(target):
    leaves, targets, order = case(kind="hard")
    targets[0] = target
    with pytest.raises(ValueError, match=f"targets must be class indices from 0 to 10 .*got {target}"):
        ours(leaves, targets, order)
    tensors = [leaves[name] for name in ("hidden", "weight", "bias")]
    arguments = (*tensors, targets.where(targets != -100, 0), leaves["ranges"], leaves["ts"], (1, 1, 2, 2), 0.0)
    for way in WAYS:  # without the check, as in a compiled graph
        with computed_by(way):
            if way == "triton":
                found = torch.ops.multimax.linear_cross_entropy_losses(*arguments)
                assert found[0].isnan()
                assert found[1:].isfinite().all()
            else:
                with pytest.raises(RuntimeError, match="out of bounds"):
                    torch.ops.multimax.linear_cross_entropy_losses(*arguments)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_rows_may_hold_anything(reduction):
    for way, hidden in product(WAYS, (torch.nan, torch.inf, 1e300)):
        leaves, targets, order = case(kind="hard")
        ignored = targets == -100
        expected, found = [], []
        for results, value in ((expected, 0.0), (found, hidden)):
            dirty = leaves["hidden"].detach().masked_fill(ignored[:, None], value).requires_grad_()
            with computed_by(way):
                loss = ours(leaves | {"hidden": dirty}, targets, order, reduction=reduction)
                others = [leaf for name, leaf in leaves.items() if name != "hidden"]
                results += [loss, *torch.autograd.grad(loss.sum(), [dirty, *others])]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert not found[1][ignored].any()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("trained", ["hidden", "weight", "bias", "ranges", "ts"])
def test_nothing_is_computed_for_what_is_frozen(trained, reduction):
    """The gradient is the same as if all were trained; only the logits and what is trained cost a matrix product."""
    leaves, targets, order = case(kind="hard")
    (expected,) = torch.autograd.grad(reference(leaves, targets, order, reduction=reduction).sum(), leaves[trained])
    frozen = {name: leaf.detach().requires_grad_(name == trained) for name, leaf in leaves.items()}
    with FlopCounterMode(display=False) as counter:
        loss = ours(frozen, targets, order, reduction=reduction).sum()
        loss.backward()
    torch.testing.assert_close(frozen[trained].grad, expected)
    product_of_logits = 2 * leaves["hidden"].numel() * len(leaves["weight"])
    products = (2 if reduction == "none" else 1) + (trained in ("hidden", "weight"))
    assert counter.get_total_flops() == products * product_of_logits


@pytest.mark.parametrize("name", [name for name in KINDS if reweight.get(name).has_loss])
def test_the_loss_of_any_function_is_that_of_its_scores(name):
    leaves, targets, _ = case(order=None, kind="hard")
    function = reweight.create(name).double()
    tensors = [*leaves.values(), *function.parameters()]
    scores = F.linear(leaves["hidden"], leaves["weight"], leaves["bias"])
    for options in ({"reduction": "sum"}, {"reduction": "mean", "label_smoothing": 0.1}):
        expected = function.loss(scores, targets, **options)
        found = linear_loss(function, leaves["hidden"], leaves["weight"], leaves["bias"], targets, **options)
        torch.testing.assert_close(found, expected)
        for gradient, right in zip(
            torch.autograd.grad(found, tensors),
            torch.autograd.grad(expected, tensors, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(gradient, right)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("v", [1, 1000, 10_001, 267_744])
def test_on_a_gpu(monkeypatch, v, dtype):
    """Several chunks, the last one not full, with rows of any alignment; two calls give the same bits.

    In half precision the logits are rounded, and SegLU's slope multiplies the rounding error.
    """
    monkeypatch.undo()
    monkeypatch.setattr(chunked, "CHUNK", {"cuda": 100 * v})
    monkeypatch.setattr(chunked, "MIN_ROWS", 100)
    for kind, order, label_smoothing in (("hard", 2, 0.0), ("hard", None, 0.0), ("hard", 1, 0.1), ("soft", 2, 0.1)):
        if kind == "soft" and v > 10_001:
            continue
        leaves, targets, order = case(250, v, 64, order, kind, dtype=dtype, scale=0.1)
        if kind == "soft":
            targets = targets.float().softmax(-1).to(dtype)
        leaves = {name: leaf.detach().cuda().requires_grad_() for name, leaf in leaves.items()}
        found = []
        for function in (reference, ours, ours):
            loss = function(leaves, targets.cuda(), order, label_smoothing=label_smoothing)
            found.append([loss, *torch.autograd.grad(loss, list(leaves.values()))])
        tolerance = {torch.bfloat16: 5e-2, torch.float16: 1e-2, torch.float32: 1e-4}[dtype]
        for name, expected, first, second in zip(("loss", *leaves), *found, strict=True):
            error = (first.double() - expected).norm() / expected.norm().clamp(min=1e-9)
            assert error < tolerance, (kind, order, name, error)
            assert torch.equal(first, second), name
