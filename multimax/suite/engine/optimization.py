"""Learning-rate schedules, and a user's own by ``schedule._target_``.

A schedule is a function of the step alone: ``step_update(step)`` sets the learning rate of each parameter group.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler

from multimax.suite.config import SCHEDULES, Schedule
from multimax.suite.plugins import build, has_target, require


class FactorSchedule(Scheduler):
    """The learning rate times ``factor(step)``."""

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Callable[[int], float]):
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)
        self.factor = factor

    def _get_lr(self, t: int) -> list[float]:
        return [value * self.factor(t) for value in self.base_values]


class WarmupScheduler(Scheduler):
    """Linear warm-up, then a constant rate or ("inverse_sqrt", as in fairseq) decay by sqrt(step / warmup_steps)."""

    def __init__(self, optimizer: torch.optim.Optimizer, decay: bool, warmup_steps: int, warmup_rate: float):
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)
        self.decay, self.warmup_steps, self.warmup_rate = decay, warmup_steps, warmup_rate

    def _get_lr(self, t: int) -> list[float]:
        if t < self.warmup_steps:
            done = t / self.warmup_steps
            return [self.warmup_rate + done * (value - self.warmup_rate) for value in self.base_values]
        factor = (self.warmup_steps / max(t, 1)) ** 0.5 if self.decay else 1.0
        return [value * factor for value in self.base_values]


def warmup(optimizer: torch.optim.Optimizer, config: Schedule, total_steps: int, warmup_steps: int) -> WarmupScheduler:
    return WarmupScheduler(optimizer, config.name == "inverse_sqrt", warmup_steps, config.warmup_rate)


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
