"""Where numbers come from: the revision of the code, and the machine. Needs only torch."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

REVISION = "REVISION"
"""File in a copy of the package that holds the revision that was copied."""


def revision() -> str | None:
    """Git revision of the code, with "-dirty" where tracked files were changed; None outside a repository."""
    noted = Path(__file__).parents[2] / REVISION
    if noted.exists():
        return noted.read_text().strip()
    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def git(*arguments: str) -> str:
    """Output of git in the repository of this code; raises OSError or CalledProcessError if there is none."""
    return subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    ).stdout.strip()


def environment() -> dict[str, Any]:
    """What this process runs on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu": models[0] if models else platform.processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
