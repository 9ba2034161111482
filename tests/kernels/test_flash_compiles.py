"""The flash kernels compile for real GPUs, within their resources. No GPU is needed.

The interpreter does not treat types, layouts, registers or shared memory as the compiler does.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from compile_flash_kernels import SHARED_MEMORY

SCRIPT = Path(__file__).with_name("compile_flash_kernels.py")


def compile_for(tmp_path, capability: int, *arguments: str) -> dict[str, dict[str, int]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, SCRIPT, str(capability), *arguments]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    kernels = {line.split()[0].rpartition(".")[2]: line for line in output.splitlines()}
    assert set(kernels) == {"forward", "backward_of_queries", "backward_of_keys"}
    usage = {
        name: {what: int(number) for what, number in re.findall(r"(\w+)=(\d+)", line)} for name, line in kernels.items()
    }
    for kernel in usage.values():
        assert kernel["shared"] <= SHARED_MEMORY[capability] * 1024
    return usage


def test_heads_of_64_on_an_h100_stay_in_registers(tmp_path):
    """Except for a few in the keys' kernel: smaller blocks would spill less, but take longer on the device."""
    stacks = {name: kernel["stack"] for name, kernel in compile_for(tmp_path, 90, "64", "bfloat16").items()}
    assert stacks.pop("backward_of_keys") <= 32
    assert set(stacks.values()) == {0}


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("size", ["32", "128", "256"])
@pytest.mark.parametrize("features", [["bfloat16", "causal"], ["float16", "mask", "dropout"], ["bfloat16", "softmax"]])
def test_every_size_on_every_gpu(tmp_path, capability, size, features):
    for kernel in compile_for(tmp_path, capability, size, *features).values():
        assert kernel["stack"] <= 2048
