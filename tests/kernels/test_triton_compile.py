"""The row kernels compile for GPUs that are not here, which catches errors that the interpreter lets pass."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.backends.nvidia", reason="Triton was built without its compiler for NVIDIA's GPUs")

SHARED_LIMIT = 48 * 1024  # bytes that a program gets on any GPU without asking for more


@pytest.mark.parametrize(
    ("capability", "n", "dtype"), [(90, 197, "bfloat16"), (80, 20000, "float32"), (80, 64, "float64")]
)
def test_row_kernels_compile(tmp_path, capability, n, dtype):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, Path(__file__).parent / "compile_row_kernels.py", str(capability), str(n), dtype]
    done = subprocess.run(
        command, env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.findall(r"^(\S+) registers=(\d+) stack=(\d+) shared=(\d+)$", done.stdout, re.MULTILINE)
    assert len(found) == 13
    assert max(int(shared) for *_, shared in found) <= SHARED_LIMIT
    if dtype == "bfloat16":
        assert not any(int(stack) for _, _, stack, _ in found), "registers are spilled"
