"""Names, options, errors, and a user's own functions."""

import copy
import functools
import importlib
import inspect
import io
import math
import pickle

import pytest
import torch
from conftest import VARIANTS

from multimax import reweight
from multimax.reweight import _registry


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(_registry, "_REGISTRY", dict(_registry._REGISTRY))


def test_the_built_in_functions_are_there_sorted():
    assert reweight.available() == (
        "elastic_softmax",
        "entmax",
        "entmax15",
        "evsoftmax",
        "multimax",
        "normmax",
        "relu",
        "sa_softmax",
        "scalable_softmax",
        "sigmoid",
        "sink",
        "softmax",
        "softmax_plus_one",
        "softpick",
        "sparsemax",
        "stieltjes",
        "temperature",
        "topk_softmax",
    )


def test_names_are_functions_whatever_was_imported_first():
    importlib.import_module("multimax.reweight._entmax")
    for name in set(reweight.__all__) - {"row_kernels"}:
        assert inspect.isfunction(getattr(reweight, name)) == name.islower()


def test_options_are_plain_values_without_num_heads():
    assert reweight.options("multimax") == {
        "order": 2,
        "shared_ranges": False,
        "per_head": False,
        "init": "normal",
        "modulator": None,
    }
    assert reweight.options("entmax") == {"alpha": None, "per_head": True, "modulator": None}
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
        (lambda: reweight.options("zzz"), ValueError, ["'zzz'", "There are: elastic_softmax, entmax"]),
        (lambda: reweight.create("multimax", oder=1), TypeError, ["'oder'", "did you mean 'order'?", "shared_ranges"]),
        (lambda: reweight.create("softmax", alpha=1), TypeError, ["'alpha'", "it has none"]),
        (lambda: reweight.register("softmax")(lambda scores, mask=None: scores), ValueError, ["'softmax'", "already"]),
        (lambda: reweight.register("linear")(torch.nn.Linear), TypeError, ["Linear", "Reweighting"]),
        (lambda: reweight.register("number")(3), TypeError, ["3", "Reweighting"]),
        (lambda: reweight.register(3), TypeError, ["name", "int"]),
        (lambda: reweight.register("short")(lambda scores: scores), TypeError, ["'short'", "mask"]),
        (lambda: reweight.create(["softmax"]), TypeError, ["name", "list"]),
        (lambda: reweight.create("entmax", num_heads=0), ValueError, ["num_heads", "0"]),
        (lambda: reweight.create("entmax", num_heads="3"), TypeError, ["num_heads", "int", "str"]),
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
        return reweight.softmax(scores / temperature, mask=mask)

    assert "tempered" in reweight.available()
    assert reweight.options("tempered") == {"temperature": 1.0, "modulator": None}
    attend = reweight.create("tempered", num_heads=4, temperature=2.0)
    assert isinstance(attend, reweight.Reweighting)
    assert reweight.get("tempered").has_loss
    assert not reweight.get("tempered").can_be_zero
    scores = torch.tensor([[2.0, 0.0]])
    assert torch.equal(attend(scores), torch.softmax(scores / 2, -1))
    assert torch.equal(tempered(scores), torch.softmax(scores, -1))
    assert math.isclose(attend.loss(scores, torch.tensor([1])).item(), 1 + math.log1p(math.exp(-1)), rel_tol=1e-6)
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        reweight.create("tempered", temprature=2.0)


@pytest.mark.parametrize("name", reweight.available())
def test_traits_are_what_is_measured(name):
    traits = reweight.traits(name)
    attend = reweight.create(name).double()
    assert traits.has_parameters == bool(list(attend.parameters()))
    scores = 3 * torch.randn(200, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = attend(scores)
    assert traits.can_be_zero == bool((weights == 0).any())
    total = weights.sum(-1)
    assert traits.sums_to_one == torch.allclose(total, torch.ones_like(total))
    # A second entry far below the rest takes its share from the others, and changes nothing else about them.
    far = scores.new_full((200, 1), -20.0)
    short, longer = (attend(torch.cat([scores, *[far] * count], -1)) for count in (1, 2))
    others = longer[:, :-1] / (1 - longer[:, -1:] if traits.sums_to_one else 1)
    assert traits.needs_length != torch.allclose(others, short)
    assert not reweight.get(name).has_loss or traits.sums_to_one


def test_a_function_declares_its_traits():
    @reweight.register("mean", can_be_zero=False, needs_length=True, sums_to_one=False)
    def mean(scores, mask=None):
        return torch.sigmoid(scores) / scores.shape[-1]

    assert reweight.traits("mean") == (False, False, True, False)


@pytest.mark.parametrize(
    "traits", [{"positive": True}, {"can_be_zero": False}, {"positive": True, "can_be_zero": False}]
)
def test_positive_and_the_traits_that_it_stands_for_are_the_same(traits):
    reweight.register("tempered", **traits)(tempered)
    assert reweight.traits("tempered") == (True, False, False, False)
    assert reweight.get("tempered").has_loss


@pytest.mark.parametrize("other", [{"can_be_zero": True}, {"sums_to_one": False}])
def test_traits_that_contradict_one_another_are_refused(other):
    with pytest.raises(ValueError, match=f"'tempered' cannot be positive.*{next(iter(other))}"):
        reweight.register("tempered", positive=True, **other)


@pytest.mark.parametrize(
    "said", [{"positive": True}, {"can_be_zero": False}, {"sums_to_one": False}, {"needs_length": True}]
)
def test_a_subclass_says_its_traits_itself(said):
    with pytest.raises(TypeError, match="Mine says its traits"):

        @reweight.register("mine", **said)
        class Mine(reweight.Softmax):
            pass


def test_a_partial_function_is_a_function():
    reweight.register("best")(functools.partial(reweight.topk_softmax, k=1))
    assert reweight.create("best")(torch.tensor([1.0, 2.0])).tolist() == [0, 1]


def tempered(scores, mask=None, *, temperature=1.0):
    return reweight.softmax(scores / temperature, mask=mask)


@pytest.mark.parametrize("name", [*reweight.available(), "tempered"])
def test_modules_survive_pickle_deepcopy_and_save_with_their_options(name):
    reweight.register("tempered", can_be_zero=False)(tempered)
    scores = torch.randn(3, 4, 5)
    for options in VARIANTS.get(name, [{}, {"temperature": 2.0}] if name == "tempered" else [{}]):
        module = reweight.create(name, num_heads=3, **options)
        saved = io.BytesIO()
        torch.save(module, saved)
        saved.seek(0)
        for again in (
            pickle.loads(pickle.dumps(module)),
            copy.deepcopy(module),
            copy.copy(module),
            torch.load(saved, weights_only=False),
        ):
            assert type(again) is type(module)
            assert repr(again) == repr(module)
            assert torch.equal(again(scores), module(scores))


def test_a_subclass_of_a_functions_module_survives_too():
    reweight.register("tempered", can_be_zero=False)(tempered)

    class Colder(reweight.get("tempered")):
        def forward(self, scores, mask=None):
            return super().forward(10 * scores, mask)

    again = copy.deepcopy(Colder(temperature=2.0))
    assert torch.equal(again(scores := torch.randn(3, 5)), torch.softmax(5 * scores, -1))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -2.0, 1e300, 10**40, True])
@pytest.mark.parametrize(
    ("name", "option"),
    [("entmax", "alpha"), ("evsoftmax", "epsilon"), ("normmax", "alpha"), ("stieltjes", "q"), ("softmax", "modulator")],
)
def test_numbers_that_no_score_can_bear_are_refused(name, option, number):
    for value in ({"name": "elu", "alpha": number}, {"name": "softcap", "cap": number}) * (option == "modulator") or [
        number
    ]:
        with pytest.raises((TypeError, ValueError), match=r"must be .*, got|must be float") as raised:
            reweight.create(name, **{option: value})(torch.randn(2, 3))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", reweight.available())
def test_parameters_can_be_reset(name):
    for options in VARIANTS.get(name, [{}]):
        torch.manual_seed(0)
        module = reweight.create(name, num_heads=3, **options)
        before = copy.deepcopy(module.state_dict())
        for parameter in module.parameters():
            parameter.data.fill_(7.0)
        torch.manual_seed(0)
        if list(module.parameters()):
            module.reset_parameters()
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


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
    assert reweight.options("scaled") == {"start": 1.0, "modulator": None}
    assert reweight.create("scaled", num_heads=3)(torch.randn(3, 2, 4)).shape == (3, 2, 4)
