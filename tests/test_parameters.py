"""How optimisers treat the parameters of reweightings."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import multimax
from multimax import reweight


class Model(nn.Module):
    def __init__(self, name="multimax"):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.position = nn.Parameter(torch.ones(2, 3))
        self.attend = reweight.create(name)

    def no_weight_decay(self):
        return {"position"}


@pytest.mark.parametrize("wrapped", [lambda model: model, nn.DataParallel, torch.compile, nn.Sequential])
def test_only_matrices_decay(wrapped):
    model = Model()
    groups = multimax.parameter_groups(wrapped(model), 0.1)
    decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
    assert decayed == [model.linear.weight]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("model", "weight_decay", "error", "words"),
    [
        (Model().parameters(), 0.1, TypeError, "model must be a torch.nn.Module, got generator"),
        (Model(), None, TypeError, "weight_decay must be a number"),
        (Model(), -0.1, ValueError, "weight_decay must be at least 0"),
    ],
)
def test_mistakes_are_named(model, weight_decay, error, words):
    with pytest.raises(error, match=words):
        multimax.parameter_groups(model, weight_decay)


@pytest.mark.parametrize("name", reweight.available())
def test_the_reweightings_are_a_group_of_their_own_with_their_learning_rate(name):
    model = Model(name)
    own = [list(group["params"]) for group in multimax.parameter_groups(model, 0.1, lr=0.5) if "lr" in group]
    assert own == ([list(model.attend.parameters())] if reweight.traits(name).has_parameters else [])
    torch.optim.AdamW(multimax.parameter_groups(model, 0.1), lr=1e-3)


def test_what_is_frozen_is_in_no_group():
    model = Model().requires_grad_(False)
    model.attend.ts.requires_grad_()
    assert [group["params"] for group in multimax.parameter_groups(model, 0.1)] == [[model.attend.ts]]


def test_the_reweightings_gradient_is_clipped_by_itself():
    model = Model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.attend.ts.grad *= 1e6
    norm = multimax.clip_gradients(model, 1.0)
    others = torch.cat([p.grad.flatten() for p in (model.linear.weight, model.linear.bias, model.position)])
    assert norm == pytest.approx(math.sqrt(18 + 4e12 + 4))
    torch.testing.assert_close(others, torch.full_like(others, 1 / math.sqrt(18)))
    own = torch.cat([p.grad for p in model.attend.parameters()])
    assert own.norm().item() == pytest.approx(1, rel=1e-4)


def test_without_a_limit_gradients_are_left_alone():
    model = Model()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)  # their norm is infinite
    assert multimax.clip_gradients(model, None).isinf()
    assert all((parameter.grad == 1e30).all() for parameter in model.parameters())


def reloaded(model):
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    return model


WAYS = {
    "as it was made": lambda model: model,
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "cast": lambda model: model.double(),
    "materialised": lambda model: model.to("meta").to_empty(device="cpu"),
    "assigned": reloaded,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", reweight.available())
def test_a_parameter_is_known_for_a_reweightings(way, name):
    model = WAYS[way](Model(name))
    known = {path for path, parameter in model.named_parameters() if multimax.is_reweighting(parameter)}
    assert known == {path for path, _ in model.named_parameters() if path.startswith("attend.")}


@pytest.mark.parametrize("max_norm", [-1.0, torch.nan])
def test_gradients_are_not_clipped_to_less_than_nothing(max_norm):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="max_norm must be at least 0"):
        multimax.clip_gradients(model, max_norm)
