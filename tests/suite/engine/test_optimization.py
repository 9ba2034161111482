import math

import pytest
import torch
from torch import nn

from multimax import reweight
from multimax.suite.config import Optimizer, Schedule
from multimax.suite.engine.optimization import clip_gradients, create_optimizer, create_schedule, reweighting_parameters


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.position = nn.Parameter(torch.ones(2, 3))
        self.attend = reweight.create("multimax")

    def no_weight_decay(self):
        return {"position"}


def test_only_matrices_decay():
    model = Model()
    groups = create_optimizer(model, Optimizer(learning_rate=1.0, weight_decay=0.1)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(model.linear.weight)}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_the_reweightings_gradient_is_clipped_by_itself():
    model = Model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.attend.ts.grad *= 1e6
    norm = clip_gradients(model, reweighting_parameters(model), 1.0)
    others = torch.cat([p.grad.flatten() for p in (model.linear.weight, model.linear.bias, model.position)])
    assert norm == pytest.approx(math.sqrt(18 + 4e12 + 4))
    torch.testing.assert_close(others, torch.full_like(others, 1 / math.sqrt(18)))
    own = torch.cat([p.grad for p in model.attend.parameters()])
    assert own.norm().item() == pytest.approx(1, rel=1e-4)


def test_without_a_limit_gradients_are_left_alone():
    model = Model()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)  # whose norm is infinite
    assert clip_gradients(model, reweighting_parameters(model), None).isinf()
    assert all((parameter.grad == 1e30).all() for parameter in model.parameters())


def rates(schedule: Schedule, steps: range) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = create_schedule(optimizer, schedule, total_steps=100, steps_per_epoch=10)
    result = []
    for step in steps:
        scheduler.step_update(step)
        result.append(optimizer.param_groups[0]["lr"])
    return result


def test_cosine_warms_up_and_ends_at_its_final_rate():
    schedule = Schedule("cosine", warmup_epochs=1, warmup_rate=0.5, final_rate=0.1)
    assert rates(schedule, range(101)) == pytest.approx(
        [0.5 + 0.15 * t if t < 10 else 0.1 + 0.95 * (1 + math.cos(math.pi * t / 100)) for t in range(100)] + [0.1]
    )


def test_inverse_square_root_is_fairseqs():
    schedule = Schedule("inverse_sqrt", warmup_steps=4, warmup_rate=1e-7)
    expected = [1e-7 + t * (2 - 1e-7) / 4 for t in range(4)] + [2 * 4**0.5 * t**-0.5 for t in range(4, 30)]
    assert rates(schedule, range(30)) == pytest.approx(expected)
