"""The CPU's kernels, from C++ to operators: compiled at their first use and kept in the user's cache.

The library is named by a digest of all it is made of: the sources, torch's version, the flags, and all that the
compiler predefines for this processor, its own version among them. So several machines can share a cache, and nothing
in it goes stale. It appears under its name whole or not at all. Processes that start together wait for the one that
compiles; the system frees its lock when it dies.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

SOURCES = sorted(path for pattern in ("*.cpp", "*.h") for path in Path(__file__).parent.glob(pattern))
FLAGS = [
    *("-std=c++20", "-O3", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math"),  # what vectors of sqrt and of comparisons need; NaN stays NaN
    *("-Wno-psabi", "-Wno-ignored-attributes"),
    "-DTORCH_TARGET_VERSION=0x020b000000000000",  # 2.11, the oldest that we support
]
SECONDS_TO_WAIT = 300  # for another process that compiles, before compiling too

_log = logging.getLogger(__name__)


def load() -> str | None:
    """Load the operators, compiling them first if need be; why it cannot be done, in one line, or None."""
    try:
        path = library()
        try:
            torch.ops.load_library(path)
        except OSError:  # a file that a full disk or a power cut has damaged
            path.unlink()
            torch.ops.load_library(library())
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return str(error).strip().split("\n")[0]
    return None


def library() -> Path:
    """The compiled library, made if it is not there yet.

    Raises:
        RuntimeError: there is no compiler, or it fails.
        OSError: the cache cannot be written.
    """
    command = _command()
    path = cache_folder() / f"rows-{_digest(command)}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        if not path.exists():
            _compile(command, path)
    return path


def cache_folder() -> Path:
    """TORCH_EXTENSIONS_DIR/multimax, or multimax/kernels in XDG_CACHE_HOME or ~/.cache."""
    if folder := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(folder) / "multimax"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimax" / "kernels"


def _compile(command: list[str], path: Path) -> None:
    _log.info("compiling %s", path)
    for left_over in path.parent.glob("compiling-*"):  # by a process that was killed
        if time.time() - left_over.stat().st_mtime > SECONDS_TO_WAIT:
            shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="compiling-", dir=path.parent) as folder:
        made = Path(folder) / path.name
        sources = [str(source) for source in SOURCES if source.suffix == ".cpp"]
        result = subprocess.run([*command, *sources, "-o", str(made), *_torch()], capture_output=True, text=True)
        if result.returncode:
            first_error = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr)
            raise RuntimeError(f"{command[0]} failed: {first_error.strip()}")
        os.replace(made, path)


def _torch() -> list[str]:
    root = Path(torch.__file__).parent
    return [f"-I{root / 'include'}", f"-L{root / 'lib'}", "-ltorch_cpu"]


def _command() -> list[str]:
    """The compiler, that of CXX if set, for this processor, with all flags, those of CXXFLAGS the last."""
    if os.name != "posix":
        raise RuntimeError(f"they are not made for {os.name}")
    named, flags = os.environ.get("CXX"), [*FLAGS, *os.environ.get("CXXFLAGS", "").split()]
    compiler = next(filter(None, map(shutil.which, [named] if named else ["g++", "clang++", "c++"])), None)
    if compiler is None:
        raise RuntimeError(f"no C++ compiler: {named or 'g++'} is not there; install g++ or name one in CXX")
    for processor in ("-march=native", "-mcpu=native"):  # ARM's compilers have not always known the first
        if _predefined(compiler, processor) is not None:
            return [compiler, processor, *flags]
    return [compiler, *flags]


@cache
def _predefined(compiler: str, *flags: str) -> str | None:
    command = [compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull]
    result = subprocess.run(command, capture_output=True, text=True)
    return None if result.returncode else result.stdout


def _digest(command: list[str]) -> str:
    compiler, *flags = command
    digest = hashlib.sha256()
    machine = _predefined(compiler, *[flag for flag in flags if flag.startswith("-m")])
    for part in (torch.__version__, " ".join(flags), machine, *(source.read_text() for source in SOURCES)):
        digest.update(f"{part}\0".encode())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process compiles the same, or after ``SECONDS_TO_WAIT``; both would then make the same."""
    import fcntl  # not on Windows

    with open(path.with_suffix(".lock"), "w") as lock:
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while time.monotonic() < deadline and not path.exists():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield
