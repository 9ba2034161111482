"""Wrong tensors given to the C++ operators directly, past the functions, raise a one-line error and never crash."""

import pytest
import torch

from multimax import kernels
from multimax.kernels import attention, operators  # noqa: F401, define the operators

pytestmark = pytest.mark.skipif(kernels.path(torch.zeros(1)) != "cpp", reason="there is no C++ compiler")

torch.manual_seed(0)
SCORES = torch.randn(3, 3, 4, 5)
WEIGHTS = SCORES.softmax(-1)
MASK = torch.rand(3, 1, 4, 5) > 0.3
RANGES, TS = 0.3 * torch.randn(2, 3, 4)
ALPHA = torch.tensor([1.2, 1.5, 2.0])
POWERS = (1, 1, 2, 2)
STATISTICS = torch.full((2, 3, 3, 4), 5.0)
QUERY, KEY, VALUE = torch.randn(3, 3, 4, 8), torch.randn(3, 3, 5, 8), torch.randn(3, 3, 5, 6)
OUTPUT = torch.randn(3, 3, 4, 6)
BIAS, SINK = torch.randn(1, 3, 4, 5), torch.randn(3)
ENTRIES, INDEX = torch.rand(2, 6, 3).unbind(), torch.tensor([0, 2, 2, 0, 3, 2])

ROWS = {
    "multimax_forward": (SCORES, MASK, RANGES, TS, POWERS),
    "multimax_backward": (SCORES, SCORES, MASK, STATISTICS, RANGES, TS, POWERS, WEIGHTS),
    "entmax_forward": (SCORES, MASK, 1.5),
    "entmax_backward": (SCORES, WEIGHTS, 1.5),
    "alpha_entmax_forward": (SCORES, MASK, ALPHA),
    "alpha_entmax_backward": (SCORES, WEIGHTS, ALPHA),
    "evsoftmax_forward": (SCORES, MASK, 0.0),
}
OF_KINDS = {
    "multimax": (RANGES, TS, POWERS, 0.0, "multimax", 0.3),
    "alpha_entmax": (ALPHA, None, (), 0.0, "alpha_entmax", 0.3),
    "entmax": (None, None, (), 1.5, "entmax", 0.3),
    "evsoftmax": (None, None, (), 0.0, "evsoftmax", 0.3),
}
OF_ATTENTION = [*(((None, None), rest) for rest in OF_KINDS.values()), ((BIAS, SINK), OF_KINDS["multimax"])]
CALLS = [
    *ROWS.items(),
    *(("attention_forward", (QUERY, KEY, VALUE, MASK, *extras, *rest, 0.7)) for extras, rest in OF_ATTENTION),
    *(
        ("attention_backward", (OUTPUT, STATISTICS, True, QUERY, KEY, VALUE, MASK, *extras, *rest, 0.0))
        for extras, rest in OF_ATTENTION
    ),
    *(("segment_forward", (ENTRIES[0], INDEX, 4, *rest[:-1])) for rest in OF_KINDS.values()),
    *(("segment_backward", (*ENTRIES, ENTRIES[0], INDEX, 4, *rest[:-1])) for rest in OF_KINDS.values()),
]


def call(name, arguments):
    return getattr(torch.ops.multimax, name)(*arguments)


def refused(name, arguments):
    with pytest.raises(RuntimeError) as raised:
        call(name, arguments)
    message = str(raised.value).strip()
    assert "must" in message or "takes" in message, message
    assert "\n" not in message


def with_argument(arguments, i, value):
    return (*arguments[:i], value, *arguments[i + 1 :])


def wrong(tensor):
    """Variants of the tensor in other dtypes and shapes."""
    yield from (tensor.to(dtype) for dtype in (torch.int64, torch.uint8, torch.float16, torch.float64))
    yield from (tensor[None], tensor[..., :-1], tensor[:-1] if tensor.shape[0] > 1 else tensor[..., :0])
    yield tensor.flatten()[0]


def is_right(name, tensor, other):
    """Whether ``other`` fits too: the other arguments follow the scores, and values have a size of their own."""
    if tensor is SCORES and name in ROWS and name.endswith("forward"):
        return other.is_floating_point() and other.dim() > 0
    if tensor is INDEX:
        return other.dtype == INDEX.dtype and other.shape == INDEX.shape
    if tensor is ENTRIES[0] and name == "segment_forward":
        return other.dtype in (torch.float32, torch.float64) and other.dim() == 2 and len(other) == len(INDEX)
    is_value = tensor is VALUE and name == "attention_forward" and other.dtype == VALUE.dtype
    return is_value and other.shape[:-1] == VALUE.shape[:-1]


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[name for name, _ in CALLS])
def test_a_tensor_of_another_type_or_shape_is_refused(name, arguments):
    call(name, arguments)
    for i, tensor in enumerate(arguments):
        if not isinstance(tensor, torch.Tensor):
            continue
        for other in wrong(tensor):
            if not is_right(name, tensor, other):
                refused(name, with_argument(arguments, i, other))


@pytest.mark.parametrize("name", ["entmax_forward", "entmax_backward", "alpha_entmax_forward", "alpha_entmax_backward"])
@pytest.mark.parametrize("alpha", [0.5, 2.5])
def test_an_alpha_outside_its_bounds_is_refused(name, alpha):
    value = torch.full((3,), alpha) if name.startswith("alpha") else alpha
    refused(name, (*ROWS[name][:-1], value))


@pytest.mark.parametrize("powers", [(), (1,), (2,), (1, 2), (2, 2, 1, 1), (3, 3)])
def test_powers_of_no_order_are_refused(powers):
    refused("multimax_forward", (SCORES, MASK, RANGES, TS, powers))


@pytest.mark.parametrize(
    "rest",
    [
        (RANGES, None, POWERS, 0.0, "multimax", 0.3),
        (None, None, (), 0.0, "alpha_entmax", 0.3),
        (ALPHA, None, (), 0.0, "entmax", 0.3),
        (None, None, (), 3.0, "entmax", 0.3),
        (None, None, (), 0.0, "softmax", 0.3),
        (RANGES[:2], TS[:2], POWERS, 0.0, "multimax", 0.3),
    ],
)
def test_attention_takes_the_parameters_of_its_kind(rest):
    refused("attention_forward", (QUERY, KEY, VALUE, None, None, None, *rest, 0.0))
    refused("segment_forward", (ENTRIES[0], INDEX, 4, *rest[:-1]))


@pytest.mark.parametrize("softcap", [-1.0, torch.nan])
def test_a_softcap_below_zero_is_refused(softcap):
    refused("attention_forward", (QUERY, KEY, VALUE, None, None, None, *OF_KINDS["evsoftmax"], softcap))


@pytest.mark.parametrize(("entry", "count"), [(-1, 4), (4, 4), (0, -3), (2**62, 4)])
def test_an_index_outside_its_bounds_is_refused(entry, count):
    index = torch.tensor([0, 1, 2, entry, 0, 0])
    refused("segment_forward", (ENTRIES[0], index, count, *OF_KINDS["entmax"][:-1]))


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[name for name, _ in CALLS])
def test_how_a_tensor_lies_in_memory_does_not_matter(name, arguments):
    def elsewhere(tensor):
        if tensor.dim() < 2:
            return torch.stack([tensor, tensor], -1)[..., 1]
        return torch.stack([tensor.mT, tensor.mT], -1)[..., 1].mT

    expected = call(name, arguments)
    found = call(name, [elsewhere(a) if isinstance(a, torch.Tensor) else a for a in arguments])
    for ours, theirs in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
