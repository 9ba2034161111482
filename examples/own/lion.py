"""An optimiser and a schedule of one's own: Lion (Chen et al. 2023, 2302.06675), and a rate that falls at the end."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from multimax.suite.engine.optimization import RateSchedule


class Lion(torch.optim.Optimizer):
    """Steps of the learning rate's size in the direction of a momentum's sign."""

    def __init__(self, params: Iterable[Any], lr: float, beta1: float = 0.9, beta2: float = 0.99):
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                direction = momentum.lerp(parameter.grad, 1 - group["beta1"]).sign()
                parameter.sub_(direction, alpha=group["lr"])
                momentum.lerp_(parameter.grad, 1 - group["beta2"])


def trapezoid(optimizer: torch.optim.Optimizer, total_steps: int, share: float) -> RateSchedule:
    """The learning rate as it is, and then linearly to zero over the last ``share`` of the steps."""
    return RateSchedule(optimizer, lambda step, full: full * min(1.0, (total_steps - step) / (share * total_steps)))
