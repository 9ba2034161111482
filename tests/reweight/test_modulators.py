"""Modulators in front of any function: the composition, its traits, and what is refused."""

import copy

import pytest
import torch
from function_kinds import KINDS
from torch import nn

from multimax import attention, linear_cross_entropy, reweight
from multimax.attention import attention_path
from multimax.output_layer import linear_loss

FORMULAS = {
    "elu": nn.ELU(),
    "silu": nn.SiLU(),
    "softcap": lambda x: 50 * torch.tanh(x / 50),
    "seglu": lambda x: reweight.seglu(x, torch.tensor([-0.5, 0.5, -1.0, 1.0]), torch.tensor([0.4, -0.3, 0.1, -0.1])),
}


def filled(modulator):
    if modulator.has_parameters:
        modulator.ranges.data.copy_(torch.tensor([-0.5, 0.5, -1.0, 1.0]))
        modulator.ts.data.copy_(torch.tensor([0.4, -0.3, 0.1, -0.1]))
    return modulator


@pytest.mark.parametrize("modulator", reweight.MODULATORS)
@pytest.mark.parametrize("name", KINDS)
def test_the_function_is_of_the_modulated_scores(name, modulator):
    module = reweight.create(name, modulator=filled(reweight.MODULATORS[modulator]()))
    plain = module.normaliser
    scores, mask = 3 * torch.randn(2, 3, 4, 9), torch.rand(4, 9) > 0.3
    torch.testing.assert_close(module(scores, mask), plain(FORMULAS[modulator](scores), mask))
    for trait in ("sums_to_one", "can_be_zero", "needs_length", "has_loss"):
        assert getattr(module, trait) == getattr(plain, trait)
    assert module.has_parameters == bool(list(module.parameters()))


@pytest.mark.parametrize("name", reweight.MODULATORS)
def test_a_modulators_traits_are_what_is_measured(name):
    modulator = reweight.MODULATORS[name]().double()
    scores = torch.linspace(-1e3, 1e3, 20001, dtype=torch.float64)
    assert modulator.monotone in (False, bool((modulator(scores).diff() >= 0).all()))
    assert modulator.bounded == bool(modulator(10 * scores).abs().max() == modulator(scores).abs().max())
    assert modulator.has_parameters == bool(list(modulator.parameters()))


def test_a_modulator_that_is_not_monotone_somewhere_turns_scores_over():
    scores = torch.linspace(-10, 10, 2001)
    assert (reweight.SiLU()(scores).diff() < 0).any()
    turned = reweight.SegLU()
    turned.ts.data.fill_(-5)
    assert (turned(scores).diff() < 0).any()


@pytest.mark.parametrize("order", [1, 2, 3, "second_only"])
def test_softmax_behind_seglu_is_multimax(order):
    made = reweight.create("softmax", modulator={"name": "seglu", "order": order, "init": "zero"})
    assert type(made) is reweight.MultiMax
    assert (made.order, made.init) == (order, "zero")
    composed = reweight.Modulated(reweight.Softmax(), reweight.SegLU(order))
    made.load_state_dict(composed.modulator.state_dict())
    scores = torch.randn(3, 5, 9)
    torch.testing.assert_close(made(scores), composed(scores))


@pytest.mark.parametrize("length", [8, 160])
@pytest.mark.parametrize(
    "modulator", [reweight.SiLU(), reweight.SegLU(), type("Mine", (reweight.SegLU,), {"forward": lambda _, x: x / 2})()]
)
def test_attention_calls_a_modulator_that_was_handed_in(modulator, length):
    module, query = reweight.create("softmax", modulator=modulator), torch.randn(1, 2, length, 16)
    assert attention_path(query, query, query, module) == "reference"
    scores = query @ query.mT / 4
    torch.testing.assert_close(attention(query, query, query, module), modulator(scores).softmax(-1) @ query)


@pytest.mark.parametrize("name", [name for name in KINDS if reweight.get(name).has_loss])
def test_the_loss_is_the_functions_of_the_modulated_scores(name):
    module = reweight.create(name, modulator="elu")
    hidden, weight, targets = torch.randn(7, 5), torch.randn(6, 5), torch.randint(6, (7,))
    scores = hidden @ weight.T
    expected = module.normaliser.loss(nn.functional.elu(scores), targets)
    torch.testing.assert_close(module.loss(scores, targets), expected)
    torch.testing.assert_close(linear_loss(module, hidden, weight, None, targets), expected)


def test_what_has_no_loss_has_none_behind_a_modulator():
    with pytest.raises(NotImplementedError, match="do not sum to one"):
        reweight.create("sigmoid", modulator="elu").loss(torch.randn(2, 3), torch.tensor([0, 1]))


def test_options_and_heads_reach_the_modulator():
    module = reweight.create("entmax", num_heads=3, modulator={"name": "seglu", "per_head": True, "order": 1})
    assert (module.normaliser.u.numel(), module.modulator.ts.numel()) == (3, 6)
    assert reweight.create("relu", modulator={"name": "softcap", "cap": 5}).modulator.cap == 5


def test_parameters_of_both_are_reset():
    module = reweight.create("entmax", modulator={"name": "seglu", "init": "zero"})
    for parameter in module.parameters():
        parameter.data.fill_(7)
    module.reset_parameters()
    assert not module.normaliser.u.any()
    assert not module.modulator.ts.any()


def test_a_copy_is_the_same():
    module = reweight.create("sparsemax", modulator="seglu")
    assert torch.equal(copy.deepcopy(module)(scores := torch.randn(4, 5)), module(scores))


@pytest.mark.parametrize(
    ("modulator", "error", "words"),
    [
        ("sglu", ValueError, "did you mean 'seglu'"),
        ({"name": "seglu", "oder": 1}, TypeError, "modulator 'seglu' has no option 'oder'; did you mean 'order'"),
        ({"name": "softcap", "cap": 0}, ValueError, "cap must be above 0"),
        ({"name": "softcap", "cap": "5"}, TypeError, "option 'cap' of modulator 'softcap' must be float"),
        ({"order": 1}, TypeError, "modulator must be a name"),
        (3, TypeError, "modulator must be a name"),
    ],
)
def test_mistakes_are_named_in_one_line(modulator, error, words):
    with pytest.raises(error, match=words) as raised:
        reweight.create("softmax", modulator=modulator)
    assert "\n" not in str(raised.value)


def test_an_order_without_a_kernel_is_refused_by_the_loss_without_logits():
    six = torch.zeros(6)
    with pytest.raises(ValueError, match="modulator must be of order 1, 2"):
        linear_cross_entropy(torch.randn(2, 3), torch.randn(4, 3), torch.tensor([0, 1]), (six, six, 3))
