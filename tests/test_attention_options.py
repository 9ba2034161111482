"""Grouped heads, soft-capping, sinks, windows and biases equal a plain loop over the queries in float64."""

import pytest
import torch

from multimax import attention_weights, kernels, reweight
from multimax.attention import BACKENDS, attention

HEADS, LENGTH, DIM = 4, 7, 8
OPTIONS = {
    "groups": {},
    "softcap": {"softcap": 0.7},
    "sink": {"sink": torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)},
    "window": {"window": 2},
    "window of the past": {"window": 3, "causal": True},
    "all": {
        "softcap": 1.5,
        "sink": torch.tensor(0.4, dtype=torch.float64),
        "window": 3,
        "causal": True,
        "bias": torch.linspace(-1, 1, HEADS * LENGTH**2, dtype=torch.float64).view(HEADS, LENGTH, LENGTH),
        "scale": 0.6,
    },
}


def inputs(groups):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads, LENGTH, DIM) for heads in (HEADS, groups, groups)]
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    mask = torch.rand(2, 1, LENGTH, LENGTH, generator=generator) > 0.3
    mask[0, 0, 1] = False  # a query that may attend to nothing
    return query, key, value, mask


def written_out(
    query, key, value, function, mask, causal=False, bias=None, scale=DIM**-0.5, softcap=None, sink=None, window=None
):
    """Outputs, and weights with zeros where a query may not attend."""
    weights = torch.zeros(2, HEADS, LENGTH, LENGTH, dtype=torch.float64)
    serves = [head * key.shape[1] // HEADS for head in range(HEADS)]
    for b in range(2):
        for q in range(LENGTH):
            near = [window is None or abs(q - k) < window for k in range(LENGTH)]
            live = mask[b, 0, q] & torch.tensor([n and (k <= q or not causal) for k, n in enumerate(near)])
            scores = torch.einsum("hd,hkd->hk", query[b, :, q], key[b, serves][:, live]) * scale
            if softcap is not None:
                scores = (scores / softcap).tanh() * softcap
            if bias is not None:
                scores = scores + bias[:, q, live]
            if sink is not None:
                scores = torch.cat([scores, sink.reshape(-1, 1).expand(HEADS, 1)], 1)
            weights[b, :, q, live] = function(scores.unsqueeze(1)).squeeze(1)[:, : live.sum()]
    return weights @ value[:, serves], weights


@pytest.mark.parametrize("name", reweight.available())
@pytest.mark.parametrize("option", OPTIONS)
def test_equals_what_is_written_out(name, option):
    """Every backend that can serve an option agrees; the others say why they cannot."""
    for groups in (1, 2) if option == "groups" else (2,):
        *tensors, mask = inputs(groups)
        function, served = reweight.create(name, num_heads=HEADS).double(), 0
        expected, weights = written_out(*tensors, function, mask, **OPTIONS[option])
        for backend in (None, *BACKENDS):
            try:
                output = attention(*tensors, function, mask, **OPTIONS[option], backend=backend)
            except ValueError as error:
                assert f"backend {backend!r} cannot serve: " in str(error)  # noqa: PT017
                continue
            served += 1
            torch.testing.assert_close(output, expected, msg=lambda found, b=backend: f"{b}: {found}")
        assert served >= 2
        found = attention_weights(*tensors[:2], function, mask, **OPTIONS[option])
        torch.testing.assert_close(found, weights)


@pytest.mark.skipif(kernels.path(torch.zeros(1)) != "cpp", reason="there is no C++ compiler")
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_of_grouped_heads_are_summed_over_what_they_serve(groups):
    *tensors, mask = inputs(groups)
    function = reweight.create("multimax").double()
    found = []
    for backend in ("reference", "blocked"):
        leaves = [t.clone().requires_grad_() for t in tensors]
        output = attention(*leaves, function, mask, backend=backend)
        found.append(torch.autograd.grad(output.square().sum(), [*leaves, *function.parameters()]))
    for reference, blocked in zip(*found, strict=True):
        torch.testing.assert_close(blocked, reference)


def test_weights_of_keys_behind_the_last_query_are_zero():
    query, key, _, _ = inputs(2)
    weights = attention_weights(query[..., :3, :], key, reweight.create("multimax").double(), causal=True)
    assert weights.shape == (2, HEADS, 3, LENGTH)
    assert not weights.triu(1).any()


def test_a_sink_is_the_weight_that_is_missing():
    query, key, _, mask = inputs(2)
    sink = torch.zeros(HEADS, dtype=torch.float64)
    weights = attention_weights(query, key, reweight.softmax, mask, sink=sink, softcap=1e-9)
    live = mask.sum(-1).to(torch.float64).expand(2, HEADS, LENGTH)
    torch.testing.assert_close(weights.sum(-1), live / (live + 1))


@pytest.mark.parametrize("hidden", [torch.nan, torch.inf])
def test_what_only_later_queries_may_attend_to_reaches_no_earlier_one(hidden):
    *tensors, _ = inputs(2)
    options = {"softcap": 1.5, "sink": torch.zeros(HEADS, dtype=torch.float64), "causal": True}
    expected = attention(*tensors, reweight.softmax, **options)
    for tensor in tensors[1:]:
        tensor[..., -2, :] = hidden
    found = attention(*tensors, reweight.softmax, **options)
    torch.testing.assert_close(found[..., :-2, :], expected[..., :-2, :])
    assert not found[..., -2:, :].isfinite().any()
