"""Number formats: autocast, TensorFloat-32, and the loss scale of float16."""

from typing import Any

import torch
from torch import Tensor, nn

from multimax.suite.config import Training
from multimax.suite.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass in fp32 (which changes nothing), bf16 or fp16."""
    return torch.autocast(device.type, DTYPES.get(precision), enabled=precision in DTYPES)


def set_up(device: torch.device, training: Training) -> str:
    """Turn TensorFloat-32 on or off for this process; returns a description of how the run computes.

    Raises UserError for bf16 on a GPU that only emulates it.
    """
    if device.type != "cuda":
        return training.precision
    if training.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise UserError(f"training.precision=bf16 is not supported by {name}: use training.precision=fp16 or fp32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = training.tf32
    return f"{training.precision} with TF32 {'on' if training.tf32 else 'off'}"


class LossScale:
    """The factor of a float16 loss, which keeps small gradients from becoming zero (Micikevicius et al., 1710.03740).

    Like torch's ``GradScaler``, it halves with each gradient that overflows and doubles after ``patience`` that do not,
    but it is kept on the device and in the run's progress. In other formats it stays 1.
    """

    def __init__(self, precision: str, device: torch.device, first: float = 2.0**16, patience: int = 2000):
        self.active, self.patience = precision == "fp16", patience
        self.value = torch.tensor(first if self.active else 1.0, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int64, device=device)

    def restore(self, value: float, good_steps: int) -> None:
        if self.active:
            self.value.fill_(value)
            self.good_steps.fill_(good_steps)

    def unscale(self, model: nn.Module) -> None:
        """Divide the gradients by the scale."""
        if self.active:
            gradients: list[Any] = [p.grad for p in model.parameters() if p.grad is not None]
            torch._foreach_div_(gradients, self.value)

    def update(self, finite: Tensor) -> Tensor:
        """Note whether a gradient was finite; returns whether it was not, for a reason other than the scale."""
        if not self.active:
            return ~finite
        at_fault = ~finite & (self.value > 1)
        self.good_steps = torch.where(finite, self.good_steps + 1, 0)
        grown = self.good_steps >= self.patience
        self.good_steps = torch.where(grown, 0, self.good_steps)
        self.value = torch.where(at_fault, self.value / 2, torch.where(grown, self.value * 2, self.value))
        return ~finite & ~at_fault
