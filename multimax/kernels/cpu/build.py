"""Loading the CPU kernels: shipped in a wheel, or compiled on first use and cached.

A wheel has one library for each set of vector units; thanks to torch's stable ABI it works with every torch from 2.11
on. If none can be loaded, as in a clone, one is compiled into the user's cache.

The name of a compiled library contains a digest of everything it needs to match: its sources, torch, the C library, and
the vector units that torch finds in this processor. So machines can share a cache, nothing in it goes stale, and a
machine without a compiler can use what another one compiled. CXX and CXXFLAGS only matter when a library is compiled;
remove it to have it recompiled. CXXFLAGS come before our own flags, so they can add options (-I, -g, -fsanitize=...)
but cannot override vector units, optimisation or language, as conda's would.

Nothing is loaded that another user could have written. A library appears under its name only when complete, and is
never replaced: if one cannot be loaded, because it is damaged or needs a newer C++ runtime, a second one is compiled
beside it, once. Processes that start together wait for the one that compiles; the system frees its lock if it dies.
"""

import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

SOURCES = sorted(path for pattern in ("*.cpp", "*.h") for path in Path(__file__).parent.glob(pattern))
FLAGS = [
    *("-std=c++20", "-O3", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math"),  # to vectorise sqrt and comparisons; NaN stays NaN
    *("-Wno-psabi", "-Wno-ignored-attributes"),
    "-DTORCH_TARGET_VERSION=0x020b000000000000",  # 2.11, the oldest version we support
]
# torch's own flags, by torch's name for the processor's vector units (or those that ATEN_CPU_CAPABILITY allows).
VECTOR_FLAGS = {
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"],
}
SHIPPED = Path(__file__).with_name("compiled")  # only in wheels that ship them
SECONDS_TO_WAIT = 300  # for another process to compile, before compiling as well
ELSEWHERE = "name another folder in TORCH_EXTENSIONS_DIR"


class Unavailable(Exception):
    """There are no kernels; the message says why and what to do, in one line."""


def load() -> Path:
    """Load the operators, compiling them first if need be, and return the path of their library.

    Raises:
        Unavailable: no shipped library can be loaded, and there is no compiler, the cache cannot be written or trusted,
            or what it holds cannot be loaded.
    """
    if os.name != "posix":
        raise Unavailable(f"they are not available for {os.name}")
    with suppress(OSError):  # not shipped, or built for another C library or C++ runtime
        torch.ops.load_library(shipped := SHIPPED / _library(torch.backends.cpu.get_cpu_capability()))
        return shipped
    try:
        first = cache_folder() / f"kernels-{_digest()}.so"
        for path in (first, first.with_stem(f"{first.stem}-2")):
            _provide(path)
            try:
                torch.ops.load_library(path)
            except OSError as error:
                reason = error
            else:
                return path
    except OSError as error:
        raise Unavailable(f"{error.filename or 'the cache'}: {error.strerror}; {ELSEWHERE}") from error
    raise Unavailable(f"{path} cannot be loaded ({_line(str(reason))}); remove it, or {ELSEWHERE}")


def cache_folder() -> Path:
    """TORCH_EXTENSIONS_DIR/multimax, or multimax/kernels in XDG_CACHE_HOME or ~/.cache."""
    if folder := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(folder) / "multimax"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimax" / "kernels"
    except RuntimeError as error:
        raise Unavailable(f"this user has no home directory; {ELSEWHERE}") from error


def _digest() -> str:
    digest = hashlib.sha256()
    runs_on = (torch.__version__, platform.machine(), *platform.libc_ver(), *_flags())
    for part in (*runs_on, *(source.read_text() for source in SOURCES)):
        digest.update(f"{part}\0".encode())
    return digest.hexdigest()[:16]


def _flags(capability: str = "") -> list[str]:
    """Flags for this processor, or for the vector units that torch calls ``capability``."""
    return [*FLAGS, *VECTOR_FLAGS.get(capability or torch.backends.cpu.get_cpu_capability(), [])]


def _library(capability: str) -> str:
    """File name of the shipped library for vector units by torch's name."""
    return f"{platform.machine()}-{capability if capability in VECTOR_FLAGS else 'baseline'}.so"


def compile_for_wheel(folder: Path) -> None:
    """Compile a library for each set of vector units into ``folder``. Raises CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    for capability in (*VECTOR_FLAGS, "baseline") if platform.machine() == "x86_64" else ("baseline",):
        output = folder / _library(capability)
        subprocess.run(_command(_compiler(), output, _flags(capability)), check=True)


def _provide(path: Path) -> None:
    """Make sure that the library exists and can be trusted."""
    folder = path.parent
    if not path.exists():
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check(folder)
        with _alone(path):
            if not path.exists():
                _compile(path)
    _check(folder)
    _check(path)


def _check(path: Path) -> None:
    """Raise Unavailable if another user could have written this path, or libraries cannot be loaded from it."""
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise Unavailable(f"{path} belongs to another user; {ELSEWHERE}")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise Unavailable(f"{path} can be written by others; chmod go-w it, or {ELSEWHERE}")
    if os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise Unavailable(f"{path} is on a file system that is mounted noexec; {ELSEWHERE}")


def _compile(path: Path) -> None:
    compiler, began = _compiler(), time.monotonic()
    _say(f"compiling the C++ kernels into {path.parent}, once; it takes about half a minute")
    for left_over in path.parent.glob("compiling-*"):  # of a process that was killed
        if time.time() - left_over.stat().st_mtime > SECONDS_TO_WAIT:
            shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="compiling-", dir=path.parent) as folder:
        made = Path(folder) / path.name
        environment = os.environ | {"TMPDIR": folder, "LC_ALL": "C"}
        result = subprocess.run(_command(compiler, made, _flags()), env=environment, capture_output=True, text=True)
        if result.returncode:
            raise Unavailable(
                f"{shlex.join(compiler)} failed: {_line(result.stderr) or f'exit status {result.returncode}'}; "
                f"name a C++20 compiler in CXX, or {ELSEWHERE}"
            )
        made.chmod(0o755)
        with made.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave half a library under its name
        made.replace(path)
    _say(f"compiled in {time.monotonic() - began:.0f} s")


def _compiler() -> list[str]:
    """The compiler in CXX, which may include arguments, or the first that is found."""
    named = _words_of("CXX")
    for program, *arguments in [named] if named else [["g++"], ["clang++"], ["c++"]]:
        if shutil.which(program):
            return [program, *arguments]
    lacking = f"{named[0]} is not" if named else "none of g++, clang++ and c++ is"
    raise Unavailable(f"no C++ compiler: {lacking} installed; install g++ or name one in CXX")


def _command(compiler: list[str], output: Path, flags: list[str]) -> list[str]:
    root = Path(torch.__file__).parent
    sources = [str(source) for source in SOURCES if source.suffix == ".cpp"]
    linked = [f"-I{root / 'include'}", f"-L{root / 'lib'}", "-ltorch_cpu"]
    return [*compiler, *_words_of("CXXFLAGS"), *flags, *sources, "-o", str(output), *linked]


def _words_of(variable: str) -> list[str]:
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise Unavailable(f"{variable} cannot be parsed: {error}; mend its quotes, or unset it") from error


def _line(text: str) -> str:
    """The first line that mentions an error, else the first line."""
    lines = text.strip().splitlines() or [""]
    return next((line for line in lines if "error" in line), lines[0]).strip()


def _say(what: str) -> None:
    print(f"multimax: {what}", file=sys.stderr, flush=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """A context for one process at a time; after ``SECONDS_TO_WAIT``, for all, since each would compile the same."""
    import fcntl  # not on Windows

    with path.with_suffix(".lock").open("w") as lock:
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while time.monotonic() < deadline and not path.exists():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.2)
            except OSError:  # the file system has no locks
                break
        yield
