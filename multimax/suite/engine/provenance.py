"""Where numbers come from: the code's revision and the machine. Needs only torch."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from multimax.suite.runs import Run

REVISION = "REVISION"
"""File in a copy of the package with the revision that was copied."""


def revision() -> str | None:
    """Git revision of the code, with "-dirty" if tracked files have changed; None outside a repository."""
    noted = Path(__file__).parents[2] / REVISION
    if noted.exists():
        return noted.read_text().strip()
    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def changes_since(run: "Run", plugins: Mapping[str, str] | None = None) -> list[str]:
    """Lines on how the code, and that of ``plugins``, differs from the code that trained a run, as far as is known."""
    start = (run.starts or [{}])[-1]
    then = {"revision": run.revision, "plugins": start.get("plugins", run.summary.get("plugins", {}))}
    return code_changes(then, {"revision": revision(), "plugins": plugins or {}}, f"{run.path} was trained")


def code_changes(then: Mapping[str, Any], now: Mapping[str, Any], since: str) -> list[str]:
    """A line for the project's code, and one for the plugins', where it is known to have changed."""
    said = []
    if then["revision"] is not None and then["revision"] != now["revision"]:
        said.append(f"the code has changed since {since}: it was {then['revision']}, now {now['revision']}")
    before = then.get("plugins", {})
    if changed := [name for name, digest in now.get("plugins", {}).items() if before.get(name, digest) != digest]:
        said.append(f"the code of {', '.join(changed)} has changed since {since}")
    return said


def git(*arguments: str) -> str:
    """Output of git in this code's repository; raises OSError or CalledProcessError if there is none."""
    require_tracked(Path(__file__))
    return git_in(Path(__file__).parent, *arguments)


@cache
def require_tracked(file: Path) -> None:
    """Raise CalledProcessError for a file in someone else's repository, such as an environment inside one."""
    git_in(file.parent, "ls-files", "--error-unmatch", file.name)


def git_in(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def environment() -> dict[str, Any]:
    """What this process runs on."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: *(.*)", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu": model[1].strip() if model else platform.processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
