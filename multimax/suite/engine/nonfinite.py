"""Steps whose loss or gradient is NaN or infinite are skipped and counted."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from multimax.suite.engine.precision import LossScale


def poisoned(loss: Tensor, factor: float | Tensor) -> Tensor:
    """``loss * factor``, with a gradient that is NaN everywhere if the loss is not finite.

    A loss can be infinite while its gradient is finite, and a process does not know the others' losses. But the
    gradient is all-reduced, so all processes make the same decision.
    """
    return loss * torch.where(loss.detach().isfinite(), factor, math.nan)


class Guard:
    """Takes the optimiser's steps, except those whose gradient norm is not finite, which change nothing.

    As in a gradient scaler, the decision is made on the device, through ``found_inf`` of torch's fused optimisers, so
    the host need not wait for the step to end; with other optimisers it waits. All processes have the same gradients,
    so they decide alike. A step skipped because the loss ``scale`` was too large halves the scale and is not counted.
    """

    def __init__(self, optimizer: Any, device: torch.device, limit: int, scale: LossScale):
        self.optimizer, self.limit, self.scale = optimizer, limit, scale
        self.on_device = getattr(optimizer, "_step_supports_amp_scaling", False)  # torch's mark of a fused optimiser
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)  # skipped steps: in a row, in total
        self.noted = torch.zeros(2, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.event = torch.cuda.Event() if device.type == "cuda" else None

    def restore(self, in_row: int, in_all: int) -> None:
        self.counts[0], self.counts[1] = in_row, in_all
        self.noted[0] = in_row

    def step(self, norm: Tensor) -> Tensor:
        """Step, given the norm of the whole gradient; returns whether the step was taken, as a tensor on the device."""
        taken = norm.isfinite()
        if self.on_device:
            self.optimizer.found_inf = (~taken).float()
        if self.on_device or taken:
            self.optimizer.step()
        row, total = self.counts
        counted = self.scale.update(taken)
        self.counts = torch.stack([(row + 1) * counted, total + counted])
        return taken

    def in_a_row(self) -> int:
        """How many steps in a row, up to the last one, were skipped; waits for the device."""
        return int(self.counts[0])

    def exhausted(self) -> bool:
        """Whether the last ``limit`` steps were skipped; call it after each step.

        On a GPU, the host reads the outcome of the previous step while the device works on this one. It waits for this
        one only if the previous one was skipped, so it may take ``limit + 1`` steps.
        """
        if self.event is not None:
            self.event.synchronize()
            before = int(self.noted[0])
            self.noted.copy_(self.counts, non_blocking=True)
            self.event.record()
            if before < self.limit:
                return False
        return self.in_a_row() >= self.limit


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """The values that are neither NaN nor infinite."""
    return {name: value for name, value in values.items() if math.isfinite(value)}
