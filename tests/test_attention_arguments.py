"""Wrong arguments to attention and the output loss give a one-line error that names them, or the right value."""

import pytest
import torch
import torch.nn.functional as F
from wrong_arguments import draws, judge

import multimax
from multimax import reweight
from multimax.formulas import multimax as formulas

DRAWS = 700


def assert_right(function, plain, right, seed):
    assert judge(function, plain, right, []) is None
    names = list(right)  # the error may name either of two arguments that do not fit together
    faults = [(judge(function, plain, arguments, names), changed) for arguments, changed in draws(right, DRAWS, seed)]
    faults = [fault for fault in faults if fault[0] is not None]
    assert not faults, f"{len(faults)}, such as: {faults[0]}"


def plain_weights(query, key, reweight, mask, causal, bias, scale, softcap, sink, window):
    query, key = query.detach().double(), key.detach().double()
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    live = torch.ones(scores.shape, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if bias is not None:
        scores = scores + bias.detach()
    if causal:
        live = live.tril()
    if window is not None:
        live = live.tril(window - 1).triu(1 - window)
    if sink is None:
        return reweight.double()(scores, live).detach()
    more = sink.detach().double().view(-1, 1, 1).expand(*scores.shape[:-1], 1)
    return reweight.double()(torch.cat([scores, more], -1), F.pad(live, (0, 1), value=True))[..., :-1].detach()


QUERY, KEY, VALUE = torch.randn(3, 2, 2, 4, 8, generator=torch.Generator().manual_seed(0)).unbind()
OPTIONS = {
    "mask": torch.rand(4, 4, generator=torch.Generator().manual_seed(1)) > 0.4,
    "causal": True,
    "bias": torch.full((2, 4, 4), 0.1),
    "scale": 0.3,
    "softcap": 1.5,
    "sink": torch.tensor([0.2, -0.3]),
    "window": 3,
}


@pytest.mark.parametrize("name", ["softmax", "multimax", "entmax15"])
def test_attention(name):
    def attend(dropout, **arguments):
        """Check only that a probability is accepted as one: which weights are dropped is random."""
        is_probability = isinstance(dropout, float) and 0 <= dropout < 1
        return multimax.attention(**arguments, dropout=0.0 if is_probability else dropout)

    def plain(value, dropout, backend, **arguments):
        return plain_weights(**arguments) @ value.detach().double() if callable(arguments["reweight"]) else None

    right = {"query": QUERY, "key": KEY, "value": VALUE, "reweight": reweight.create(name), **OPTIONS}
    assert_right(attend, plain, right | {"dropout": 0.0, "backend": None}, seed=1)


def test_attention_weights():
    right = {"query": QUERY, "key": KEY, "reweight": reweight.create("entmax15"), **OPTIONS}
    assert_right(multimax.attention_weights, plain_weights, right, seed=3)


@pytest.mark.parametrize("name", ["query", "key", "value", "bias"])
def test_float64_beside_others_is_refused_under_autocast_too(name):
    """Autocast leaves it as it is, so the products would not fit."""
    tensors = {"query": QUERY, "key": KEY, "value": VALUE, "bias": OPTIONS["bias"]}
    tensors[name] = tensors[name].double()
    with torch.autocast("cpu", torch.bfloat16):
        if name == "query":  # the bias would fit
            del tensors["bias"]
        with pytest.raises(TypeError, match="must be in the dtype of the query"):
            multimax.attention(**tensors, reweight=reweight.softmax)


def test_a_window_beyond_int64_is_refused():
    with pytest.raises(ValueError, match="window must be at most"):
        multimax.attention(QUERY, KEY, VALUE, reweight.softmax, window=2**70)


@pytest.mark.parametrize("hard", [True, False])
def test_linear_cross_entropy(hard):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(6, 3, generator=generator), torch.randn(5, 3, generator=generator)

    def plain(hidden, weight, targets, modulator, bias, label_smoothing, reduction, ignore_index):
        hidden, weight = hidden.detach().double(), weight.detach().double()
        logits = F.linear(hidden, weight, None if bias is None else bias.detach().double())
        if modulator is not None:
            ranges, ts, order = modulator
            powers = formulas.powers_of(order)
            logits = formulas.seglu(logits, *formulas.by_head(logits, ranges, ts, powers), powers)
        options = {"label_smoothing": label_smoothing, "reduction": reduction}
        if targets.is_floating_point():
            return F.cross_entropy(logits, targets.detach().double(), **options)
        return F.cross_entropy(logits, targets, ignore_index=ignore_index, **options)

    right = {
        "hidden": hidden,
        "weight": weight,
        "targets": torch.tensor([0, 4, -100, 1, 2, 0]) if hard else torch.softmax(torch.randn(6, 5), -1),
        "modulator": (torch.zeros(2), torch.tensor([0.2, 0.1]), 1),
        "bias": torch.full((5,), 0.1),
        "label_smoothing": 0.1,
        "reduction": "mean",
        "ignore_index": -100,
    }
    assert_right(multimax.linear_cross_entropy, plain, right, seed=2)
