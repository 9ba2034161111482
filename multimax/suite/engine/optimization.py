"""Parameter groups, clipping and learning-rate schedules."""

from collections.abc import Sequence

import torch
from timm.scheduler import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from multimax.reweight import Reweighting
from multimax.suite.config import Optimizer, Schedule


def reweighting_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of the reweightings anywhere in a model, each once."""
    modules = (module for module in model.modules() if isinstance(module, Reweighting))
    return list({id(p): p for module in modules for p in module.parameters() if p.requires_grad}.values())


def create_optimizer(model: nn.Module, config: Optimizer) -> torch.optim.AdamW:
    """AdamW over three groups: decayed weights, undecayed ones, and the reweightings' parameters (undecayed).

    Undecayed are one-dimensional parameters (biases, norms) and those named by ``model.no_weight_decay()``. The fused
    optimiser can leave out a step on the device's word (``found_inf``).
    """
    own = reweighting_parameters(model)
    own_ids = {id(p) for p in own}
    exempt: set[str] = getattr(model, "no_weight_decay", set)()
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in own_ids:
            (undecayed if parameter.ndim <= 1 or name in exempt else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
        {"params": own, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def clip_gradients(model: nn.Module, own: Sequence[nn.Parameter], max_norm: float | None) -> Tensor:
    """Clip the reweightings' parameters ``own`` and all others to ``max_norm``, each by its own global norm.

    One set of MultiMax on V logits sums V gradients: in a common group it would shrink everybody's step.
    Returns the norm of the whole gradient before clipping; with ``max_norm`` None only measures it.
    """
    own_ids = {id(p) for p in own}
    others = [p for p in model.parameters() if id(p) not in own_ids]
    norms = []
    for group in (others, own):
        norms.append(nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]))
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(group, max_norm, norms[-1])
    return torch.stack([norm.to(norms[0].device) for norm in norms]).norm()


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
