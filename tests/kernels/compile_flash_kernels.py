"""Compile the flash kernels for the GPU of a compute capability, without one: every launch is a warm-up.

With TRITON_INTERPRET unset, ``python compile_flash_kernels.py 90 64 bfloat16 causal`` prints what ran and what it
takes, a line each: registers and bytes of stack (spills) per thread, from cuobjdump, and of shared memory per program.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from multimax.kernels import flash, flash_blocks  # noqa: F401, the operators are registered by flash

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
SHARED_MEMORY = {80: 163, 89: 99, 90: 227}  # KiB that one program may use


class NoGPU:
    """What Triton asks of a device's driver until it launches."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def warm_up(self, *args, grid, warmup, **kwargs):
    compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", cubin.name], capture_output=True, text=True, check=True)
    registers, stack = (re.search(rf"{what}:(\d+)", usage.stdout)[1] for what in ("REG", "STACK"))
    print(f"{self.fn.__name__} registers={registers} stack={stack} shared={compiled.metadata.shared}", flush=True)
    return compiled


def main(capability: int, size: int, dtype: torch.dtype, *features: str) -> None:
    triton.runtime.driver.set_active(NoGPU(capability))
    JITFunction.run = warm_up
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
    run = JITFunction.run
    main(int(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3]), *sys.argv[4:])
