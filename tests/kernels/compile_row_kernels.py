"""Compile the row kernels for the GPU of a compute capability, without one: every launch is a warm-up.

``python compile_row_kernels.py 90 197 bfloat16`` prints what ran and what it takes, a line each: registers and bytes of
stack (spills) per thread, from cuobjdump, and of shared memory per program.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from multimax.kernels import triton_launch, triton_rows

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


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


def main(capability: int, n: int, dtype: torch.dtype) -> None:
    run = JITFunction.run

    def warm_up(self, *args, grid, warmup, **kwargs):
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        name = f"{self.fn.__module__.rpartition('.')[2]}.{self.fn.__name__}"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(compiled.asm["cubin"])
            cubin.flush()
            usage = subprocess.run([CUOBJDUMP, "-res-usage", cubin.name], capture_output=True, text=True, check=True)
        registers, stack = (re.search(rf"{what}:(\d+)", usage.stdout)[1] for what in ("REG", "STACK"))
        print(f"{name} registers={registers} stack={stack} shared={compiled.metadata.shared}")
        return compiled

    triton.runtime.driver.set_active(NoGPU(capability))
    JITFunction.run = warm_up
    triton_launch.processors = lambda device: 132
    scores = torch.zeros(2, 3, 20, n, dtype=dtype)
    mask = torch.ones(2, 1, 1, n, dtype=torch.bool)
    kind = torch.promote_types(dtype, torch.float32)
    ranges = ts = torch.zeros(3, 4, dtype=kind)
    _, statistics = triton_rows.multimax_forward(scores, mask, ranges, ts, (1, 1, 2, 2))
    triton_rows.multimax_backward(scores, scores, mask, statistics, ranges, ts, (1, 1, 2, 2))
    for alpha in (2.0, 1.5):
        triton_rows.entmax_backward(scores, triton_rows.entmax_forward(scores, mask, alpha), alpha)
    alphas = torch.full((3,), 1.5, dtype=kind)
    triton_rows.alpha_entmax_backward(scores, triton_rows.alpha_entmax_forward(scores, mask, alphas), alphas)
    triton_rows.evsoftmax_forward(scores, None, 0.0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3]))
