"""Processes: one per device, with what torchrun puts into the environment. Without it, one process."""

import os

import torch
import torch.distributed as dist

from multimax.errors import UserError


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def choose_device(name: str) -> torch.device:
    """The device of this process for ``training.device``: auto, cpu or cuda."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device=cuda, but torch finds no CUDA device here; use training.device=auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def start(device: torch.device) -> None:
    """Join the process group, if there is more than one process."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size() > 1:
        # Sums of a few numbers go over gloo: on the GPU they would make the host wait for the device in every step.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_processes(values: dict[str, float]) -> dict[str, float]:
    """Sum of each value over all processes, in float64."""
    if not dist.is_initialized():
        return values
    total = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(total)
    return dict(zip(values, total.tolist(), strict=True))


def concatenate_over_processes(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, in the order of their ranks; each has as many."""
    if not dist.is_initialized():
        return rows
    gathered = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)
