"""How much memory a run takes, and how to use less."""

import resource
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from multimax.suite.errors import UserError


def peak_memory(device: torch.device) -> int:
    """Peak memory of the process in bytes: that of the GPU's allocator, or resident memory without a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def checkpoint_activations(model: nn.Module) -> None:
    """Have each of ``model.layers()`` keep only its input for backward, which then computes the layer again.

    Parameters keep their names. Raises UserError for a model without a method ``layers``.
    """
    layers: Callable[[], Iterable[nn.Module]] | None = getattr(model, "layers", None)
    if layers is None:
        raise UserError(f"training.activation_checkpointing: {type(model).__name__} has no method layers()")
    for layer in layers():
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
