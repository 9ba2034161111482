"""The optimiser and its learning-rate schedules."""

import torch
from timm.scheduler import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from multimax import parameter_groups
from multimax.suite.config import Optimizer, Schedule


def create_optimizer(model: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    """AdamW over ``multimax.parameter_groups``; fused, it can leave out a step on the device's word (``found_inf``)."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


class WarmupScheduler(Scheduler):
    """Linear warm-up, then the learning rate over sqrt(step / warmup_steps) ("inverse_sqrt", as in fairseq) or none."""

    def __init__(self, optimizer: torch.optim.Optimizer, decay: bool, warmup_steps: int, warmup_rate: float):
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)
        self.decay, self.warmup_steps, self.warmup_rate = decay, warmup_steps, warmup_rate

    def _get_lr(self, t: int) -> list[float]:
        if t < self.warmup_steps:
            done = t / self.warmup_steps
            return [self.warmup_rate + done * (value - self.warmup_rate) for value in self.base_values]
        factor = (self.warmup_steps / max(t, 1)) ** 0.5 if self.decay else 1.0
        return [value * factor for value in self.base_values]


def create_schedule(
    optimizer: torch.optim.Optimizer, config: Schedule, total_steps: int, steps_per_epoch: int
) -> Scheduler:
    """timm scheduler whose ``step_update(step)`` sets the learning rate for optimiser step ``step``, counted from 0."""
    warmup_steps = config.warmup_steps or round((config.warmup_epochs or 0) * steps_per_epoch)
    if config.name == "cosine":
        return CosineLRScheduler(
            optimizer,
            t_initial=max(total_steps, 1),
            lr_min=config.final_rate,
            warmup_t=warmup_steps,
            warmup_lr_init=config.warmup_rate,
            t_in_epochs=False,
        )
    return WarmupScheduler(optimizer, config.name == "inverse_sqrt", warmup_steps, config.warmup_rate)
