"""Triton without a GPU: a launch compiles the kernel for one and prints what it uses, but does not run it."""

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class NoGPU:
    """The part of a device's driver that Triton uses before a launch."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(capability: int) -> None:
    """From now on, let launches in this process only compile.

    Each prints a line, MODULE.NAME registers=... stack=... shared=...: registers and bytes of stack (spills) per
    thread, from cuobjdump, and bytes of shared memory per program.
    """
    run = JITFunction.run

    def warm_up(self, *args, grid, warmup, **kwargs):
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(compiled.asm["cubin"])
            cubin.flush()
            usage = subprocess.run([CUOBJDUMP, "-res-usage", cubin.name], capture_output=True, text=True, check=True)
        registers, stack = (re.search(rf"{what}:(\d+)", usage.stdout)[1] for what in ("REG", "STACK"))
        name = f"{self.fn.__module__.rpartition('.')[2]}.{self.fn.__name__}"
        print(f"{name} registers={registers} stack={stack} shared={compiled.metadata.shared}", flush=True)
        return compiled

    triton.runtime.driver.set_active(NoGPU(capability))
    JITFunction.run = warm_up
