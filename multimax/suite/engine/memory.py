"""How much memory a run takes, and how to use less."""

import ctypes
import resource
import sys
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from multimax.suite.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def peak_memory(device: torch.device) -> int:
    """Peak memory of the process in bytes: the GPU allocator's, or resident memory without a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep_freed_memory() -> None:
    """Have glibc's allocator keep freed memory for the next tensors; other C libraries are left alone.

    By default glibc asks the system for the memory of every large tensor and returns it when the tensor is freed, so
    each step on a CPU maps and clears the same pages again. For the translation model of ``experiment=multi30k_cpu``
    with MultiMax, that takes a quarter of a training step.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_MAX, 0)


def checkpoint_activations(model: nn.Module) -> None:
    """Have each of ``model.layers()`` keep only its input for the backward, which recomputes the layer.

    Parameters keep their names. Raises UserError for a model without a ``layers`` method.
    """
    layers: Callable[[], Iterable[nn.Module]] | None = getattr(model, "layers", None)
    if layers is None:
        raise UserError(f"training.activation_checkpointing: {type(model).__name__} has no method layers()")
    for layer in layers():
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
