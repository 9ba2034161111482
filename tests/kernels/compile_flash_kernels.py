"""Compile the flash kernels for GPUs of a given compute capability, on a machine without one.

With TRITON_INTERPRET unset, ``python compile_flash_kernels.py 90 64 bfloat16 causal`` prints what each kernel uses.
"""

import sys

import torch
from without_gpu import compile_only

from multimax.kernels.triton import flash, flash_blocks  # noqa: F401, flash registers the operators

SHARED_MEMORY = {80: 163, 89: 99, 90: 227}  # KiB that one program may use


def main(capability: int, size: int, dtype: torch.dtype, *features: str) -> None:
    compile_only(capability)
    flash_blocks._shared_memory = lambda device: SHARED_MEMORY[capability] * 1024
    query = torch.zeros(1, 256, 2, size, dtype=dtype).transpose(1, 2)
    powers = [] if "softmax" in features else [1, 1, 2, 2]
    parameters = torch.zeros(1, len(powers))
    mask = torch.ones(256, 256, dtype=torch.bool)[None, None] if "mask" in features else None
    dropout, seed = (0.1, torch.zeros(1, dtype=torch.int64)) if "dropout" in features else (0.0, None)
    tensors = (query, query, query, parameters, parameters, mask, seed)
    options = (powers, "causal" in features, size**-0.5, dropout)
    output, lse = torch.ops.multimax.flash_attention(*tensors, *options)
    torch.ops.multimax.flash_attention_backward(query, *tensors, output, lse, *options)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3]), *sys.argv[4:])
