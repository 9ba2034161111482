"""Names, options, errors, and functions of the user's own."""

import importlib
import inspect
import math

import pytest
import torch

from multimax import reweight
from multimax.reweight import _registry


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(_registry, "_REGISTRY", dict(_registry._REGISTRY))


def test_the_built_in_functions_are_there_sorted():
    assert reweight.available() == (
        "entmax",
        "entmax15",
        "evsoftmax",
        "multimax",
        "softmax",
        "sparsemax",
        "temperature",
    )


def test_names_are_functions_whatever_was_imported_first():
    importlib.import_module("multimax.reweight._entmax")
    for name in (*reweight.available(), "seglu"):
        assert inspect.isfunction(getattr(reweight, name))


def test_options_are_plain_values_without_num_heads():
    assert reweight.options("multimax") == {
        "order": 2,
        "shared_ranges": False,
        "per_head": False,
        "init": "normal",
    }
    assert reweight.options("entmax") == {"alpha": None, "per_head": True}
    for name in reweight.available():
        assert all(isinstance(v, str | int | float | bool | None) for v in reweight.options(name).values())
        reweight.create(name, num_heads=2, **reweight.options(name))


def test_num_heads_reaches_those_that_take_it():
    assert reweight.create("entmax", num_heads=5).u.numel() == 5
    assert reweight.create("softmax", num_heads=5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: reweight.create("multimx"), ValueError, ["'multimx'", "did you mean 'multimax'?", "evsoftmax"]),
        (lambda: reweight.options("zzz"), ValueError, ["'zzz'", "There are: entmax, entmax15"]),
        (lambda: reweight.create("multimax", oder=1), TypeError, ["'oder'", "did you mean 'order'?", "shared_ranges"]),
        (lambda: reweight.create("softmax", alpha=1), TypeError, ["'alpha'", "has none"]),
        (lambda: reweight.register("softmax")(lambda scores, mask=None: scores), ValueError, ["'softmax'", "already"]),
        (lambda: reweight.register("linear")(torch.nn.Linear), TypeError, ["Linear", "Reweighting"]),
        (lambda: reweight.register("bare")(lambda scores, mask, power: scores), TypeError, ["'power'", "default"]),
    ],
)
def test_mistakes_are_named_in_one_line(call, error, words):
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_function_of_the_users_own():
    @reweight.register("tempered", positive=True)
    def tempered(scores, mask=None, *, temperature=1.0):
        """Softmax at a temperature."""
        return reweight.softmax(scores / temperature, mask)

    assert "tempered" in reweight.available()
    assert reweight.options("tempered") == {"temperature": 1.0}
    attend = reweight.create("tempered", num_heads=4, temperature=2.0)
    assert isinstance(attend, reweight.Reweighting)
    assert reweight.get("tempered").has_loss
    assert reweight.get("tempered").positive
    scores = torch.tensor([[2.0, 0.0]])
    assert torch.equal(attend(scores), torch.softmax(scores / 2, -1))
    assert torch.equal(tempered(scores), torch.softmax(scores, -1))
    assert math.isclose(attend.loss(scores, torch.tensor([1])).item(), 1 + math.log1p(math.exp(-1)), rel_tol=1e-6)
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        reweight.create("tempered", temprature=2.0)


def test_a_function_that_does_not_claim_positive_weights_has_no_loss():
    @reweight.register("hard")
    def hard(scores, mask=None):
        return (scores == scores.amax(-1, keepdim=True)).to(scores.dtype)

    assert not reweight.get("hard").has_loss
    with pytest.raises(NotImplementedError, match="hard has no loss"):
        reweight.create("hard").loss(torch.randn(2, 3), torch.tensor([0, 1]))


def test_a_module_of_the_users_own():
    @reweight.register("scaled")
    class Scaled(reweight.Softmax):
        def __init__(self, start: float = 1.0, num_heads: int = 1) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.full((num_heads,), start))

        def modulate(self, scores):
            return scores * self.scale[:, None, None]

        def forward(self, scores, mask=None):
            return super().forward(self.modulate(scores), mask)

    assert reweight.get("scaled") is Scaled
    assert reweight.options("scaled") == {"start": 1.0}
    assert reweight.create("scaled", num_heads=3)(torch.randn(3, 2, 4)).shape == (3, 2, 4)
