"""How much memory a run took."""

import resource

import torch


def peak_memory(device: torch.device) -> int:
    """Largest memory in bytes that the process had: of the GPU's allocator, or resident where there is no GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
