"""Learning-rate schedules, including a user's own by ``schedule._target_``.

A schedule depends only on the step: ``step_update(step)`` sets the learning rate of each parameter group.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler

from multimax.suite.config import SCHEDULES, Schedule
from multimax.suite.plugins import build, has_target, require


class RateSchedule(Scheduler):
    """The learning rate is ``rate(step, full)``, where ``full`` is the optimiser's own rate."""

    def __init__(self, optimizer: torch.optim.Optimizer, rate: Callable[[int, float], float]):
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)
        self.rate = rate

    def _get_lr(self, t: int) -> list[float]:
        return [self.rate(t, full) for full in self.base_values]


def warmup(optimizer: torch.optim.Optimizer, config: Schedule, total_steps: int, warmup_steps: int) -> RateSchedule:
    """Linear warm-up, then a constant rate or ("inverse_sqrt", as in fairseq) decay by sqrt(step / warmup_steps)."""

    def rate(step: int, full: float) -> float:
        if step < warmup_steps:
            return config.warmup_rate + step / warmup_steps * (full - config.warmup_rate)
        return full * (warmup_steps / max(step, 1)) ** 0.5 if config.name == "inverse_sqrt" else full

    return RateSchedule(optimizer, rate)


def cosine(
    optimizer: torch.optim.Optimizer, config: Schedule, total_steps: int, warmup_steps: int
) -> CosineLRScheduler:
    return CosineLRScheduler(
        optimizer,
        t_initial=max(total_steps, 1),
        lr_min=config.final_rate,
        warmup_t=warmup_steps,
        warmup_lr_init=config.warmup_rate,
        t_in_epochs=False,
    )


def create_schedule(optimizer: torch.optim.Optimizer, config: Schedule, total_steps: int, steps_per_epoch: int) -> Any:
    """The schedule, whose ``step_update(step)`` sets the learning rate for optimiser step ``step``, counted from 0.

    Raises UserError for an unknown name or an unsuitable ``_target_``.
    """
    warmup_steps = config.warmup_steps or round((config.warmup_epochs or 0) * steps_per_epoch)
    if not has_target(config):
        return SCHEDULES.find("schedule.name", config.name)(optimizer, config, total_steps, warmup_steps)
    offered = {"total_steps": total_steps, "warmup_steps": warmup_steps, "steps_per_epoch": steps_per_epoch}
    return require("schedule", build("schedule", config, optimizer, offered=offered), object, "step_update")
