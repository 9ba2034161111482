import math

import pytest
import torch
from torch import nn

from multimax.suite.config import Schedule
from multimax.suite.engine.optimization import create_schedule


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
