"""Compiling and caching the CPU's kernels, on machines of every kind; and the choice between the paths."""

import errno
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from multimax import kernels, linear_cross_entropy, reweight
from multimax.kernels.cpu import build

forked = multiprocessing.get_context("fork")

# A stand-in for g++: it waits, copies a library that was compiled before, and logs how it was called.
COMPILER = """#!/bin/sh
echo $$ "$@" >> {log}
while [ $# -gt 0 ]; do [ "$1" = -o ] && output=$2; shift; done
head -c 1000 {library} > "$output"
sleep {seconds}
cp {library} "$output"
"""
CONDA = "-fvisibility-inlines-hidden -std=c++17 -march=nocona -mtune=haswell -ftree-vectorize -fPIC -fno-plt -O2 -pipe"


class StandIn:
    """A compiler that copies a library; ``log`` has a line for each call."""

    def __init__(self, folder, library):
        self.path, self.library, self._log = folder / "compiler", library, folder / "log"
        self._log.touch()
        self.takes(0)

    @property
    def log(self):
        return self._log.read_text().splitlines()

    def takes(self, seconds):
        self.path.write_text(COMPILER.format(log=self._log, library=self.library, seconds=seconds))
        self.path.chmod(0o755)

    def makes(self, library):
        self.library = library
        self.takes(0)


@pytest.fixture(scope="module")
def library():
    return build.load()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "multimax"


@pytest.fixture
def compiler(tmp_path, library, cache, monkeypatch):
    stand_in = StandIn(tmp_path, library)
    monkeypatch.setenv("CXX", str(stand_in.path))
    return stand_in


def why_not():
    """The reason why the kernels cannot be loaded, which must be one line."""
    with pytest.raises(build.Unavailable) as raised:
        build.load()
    reason = str(raised.value)
    assert "\n" not in reason
    return reason


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_processes_that_start_together_compile_once(compiler):
    compiler.takes(1)
    children = [forked.Process(target=build.load) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert build.load().read_bytes() == compiler.library.read_bytes()
    assert len(compiler.log) == 1


def test_a_build_that_was_killed_is_done_anew(compiler):
    compiler.takes(3600)
    child = forked.Process(target=build.load)
    child.start()
    wait_for(lambda: compiler.log)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    compiler.takes(0)
    assert build.load().read_bytes() == compiler.library.read_bytes()
    orphan, _ = (int(line.split()[0]) for line in compiler.log)
    os.kill(orphan, signal.SIGKILL)


def test_beside_a_library_that_cannot_be_loaded_a_second_is_compiled_once(compiler, cache):
    other = forked.Process(target=build.load)  # in a child: a process that loaded the file would not read it again
    other.start()
    other.join(60)
    (first,) = cache.glob("*.so")
    first.write_bytes(b"not a library")
    for _ in range(2):
        assert build.load() == first.with_stem(f"{first.stem}-2")
    assert first.read_bytes() == b"not a library"
    assert len(compiler.log) == 2


@pytest.mark.parametrize("damaged", [False, True])
def test_what_a_wheel_ships_is_loaded_where_it_can_be(damaged, library, compiler, tmp_path):
    shipped = tmp_path / build._library(torch.backends.cpu.get_cpu_capability())
    shipped.write_bytes(b"not a library" if damaged else library.read_bytes())
    program = (
        f"from pathlib import Path\nfrom multimax.kernels.cpu import build\nbuild.SHIPPED = Path({str(tmp_path)!r})\n"
    )
    program += "print(build.load())"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert (Path(loaded) == shipped, len(compiler.log)) == ((False, 1) if damaged else (True, 0))


def test_where_no_library_can_be_loaded_it_is_not_compiled_at_every_start(compiler, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.write_text("not a library" * 100)
    compiler.makes(damaged)
    for _ in range(2):
        assert "cannot be loaded" in why_not()
    assert len(compiler.log) == 2


def test_compiling_is_announced_and_timed(compiler, capsys):
    build.load()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("multimax: compiling the C++ kernels")
    assert second == "multimax: compiled in 0 s"
    build.load()
    assert not capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["{} -pipe", "env {} -pipe", "'{}' '-pipe'"])
def test_a_compiler_may_have_arguments(arguments, compiler, monkeypatch):
    """For example ``ccache g++``."""
    monkeypatch.setenv("CXX", arguments.format(compiler.path))
    build.load()
    assert compiler.log[0].split()[1] == "-pipe"


def test_an_unbalanced_quote(compiler, monkeypatch):
    monkeypatch.setenv("CXX", "'g++")
    assert "CXX cannot be parsed" in why_not()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the flags are those of x86")
@pytest.mark.parametrize("capability", ["DEFAULT", *build.VECTOR_FLAGS])
def test_flags_of_the_environment_take_nothing_away(capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(build, "SOURCES", [Path(os.devnull)])
    monkeypatch.setenv("CXXFLAGS", f"{CONDA} -mno-avx2 -DADDED='one two'")
    command = [
        word for word in build._command(["g++"], Path("-"), build._flags()) if word not in ("-shared", "-ltorch_cpu")
    ]
    defined = subprocess.run(
        [*command, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=True
    )
    macros = dict(line.split(" ", 2)[1:] for line in defined.stdout.splitlines() if line.count(" ") > 1)
    assert macros["ADDED"] == "one two"
    assert macros["__cplusplus"].startswith("2020")
    assert ("__AVX512DQ__" in macros, "__AVX2__" in macros) == (capability == "AVX512", capability != "DEFAULT")


def test_a_library_is_for_one_processor_one_torch_and_one_c_library(compiler, monkeypatch):
    names = {build.load().name}
    other = [
        (torch.backends.cpu, "get_cpu_capability", lambda: "AVX2"),
        (torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT"),
        (torch, "__version__", "2.11.1"),
        (platform, "libc_ver", lambda: ("glibc", "2.17")),
        (platform, "machine", lambda: "aarch64"),
    ]
    for place, name, value in other:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            names.add(f"kernels-{build._digest()}.so")
    assert len(names) == 1 + len(other) - (torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT"))


def no_home(cache, monkeypatch):
    for variable in ("TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)


def mounted_noexec(cache, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))


def read_only(cache, monkeypatch):
    def mkdir(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)


def full_disk(cache, monkeypatch):
    def mkdtemp(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(arguments[-1]))

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)


def a_file_in_the_way(cache, monkeypatch):
    cache.parent.write_text("")


def written_by_anyone(cache, monkeypatch):
    cache.mkdir(parents=True)
    cache.chmod(0o777)


def of_another_user(cache, monkeypatch):
    cache.mkdir(parents=True)
    mine = os.stat

    def stat(path, **options):
        found = mine(path, **options)
        return SimpleNamespace(st_uid=found.st_uid + 4711, st_mode=found.st_mode) if path == cache else found

    monkeypatch.setattr(os, "stat", stat)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_home, "no home directory"),
        (mounted_noexec, "noexec"),
        (read_only, "Read-only file system"),
        (full_disk, "No space left"),
        (a_file_in_the_way, "Not a directory"),
        (written_by_anyone, "can be written by others; chmod go-w"),
        (of_another_user, "belongs to another user"),
    ],
)
def test_a_cache_that_cannot_be_used_is_named_with_a_remedy(spoil, reason, compiler, cache, monkeypatch):
    spoil(cache, monkeypatch)
    found = why_not()
    assert reason in found
    assert "name another folder in TORCH_EXTENSIONS_DIR" in found
    assert not compiler.log


def test_what_others_could_have_written_is_not_loaded(compiler):
    path = build.load()
    path.chmod(0o775)
    assert "can be written by others" in why_not()
    path.chmod(0o755)
    path.parent.chmod(0o1777)  # as /tmp: others may add files, but not replace this one
    assert build.load() == path
    path.parent.chmod(0o775)
    assert "can be written by others" in why_not()


def test_whatever_the_umask_what_is_made_can_be_loaded(compiler):
    before = os.umask(0)
    try:
        assert build.load() == build.load()
    finally:
        os.umask(before)


def test_a_build_that_fails_says_so_in_one_line(cache, monkeypatch):
    monkeypatch.setenv("CXXFLAGS", "-no-such-flag")
    monkeypatch.setenv("CXX", "g++")
    assert "g++ failed" in why_not()
    assert "no-such-flag" in why_not()


CODE = """
import torch
from multimax import kernels, linear_cross_entropy, reweight
scores = torch.randn(4, 9)
for name in ("multimax", "sparsemax", "evsoftmax"):
    reweight.create(name)(scores)
print(kernels.path(scores))
"""


@pytest.mark.parametrize("mode", ["auto", "require"])
def test_without_a_compiler(mode, tmp_path):
    environment = {**os.environ, "CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path), "MULTIMAX_KERNELS": mode}
    environment.pop("TORCH_EXTENSIONS_DIR", None)
    result = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    last_line = result.stderr.strip().splitlines()[-1]
    assert "no C++ compiler: no-such-compiler is not installed" in last_line
    if mode == "auto":
        assert result.stderr.count("\n") == 1
        assert result.stdout == "eager\n"
    else:
        assert last_line.startswith("RuntimeError")


def test_a_mode_that_is_none_ends_in_one_line():
    code = [sys.executable, "-c", CODE]
    result = subprocess.run(code, env={**os.environ, "MULTIMAX_KERNELS": "x"}, capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == "ValueError: MULTIMAX_KERNELS must be one of auto, eager, require, got 'x'"


def test_a_compiled_library_serves_where_no_compiler_is(compiler, cache, tmp_path):
    build.load()
    (tmp_path / "bin").mkdir()
    environment = {**os.environ, "PATH": str(tmp_path / "bin"), "CXX": "no-such-compiler"}
    result = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("cpp\n", "")


def test_modes():
    scores = torch.randn(3)
    assert kernels.path(scores) == "cpp"
    with kernels.use("eager"):
        assert kernels.path(scores) == "eager"
        with kernels.use("auto"):
            assert kernels.mode() == "auto"
        assert kernels.path(scores) == "eager"
    assert kernels.path(scores) == "cpp"
    with pytest.raises(ValueError, match="one of auto, eager, require"):
        kernels.use("fast")
    assert kernels.path(scores.to(torch.float8_e5m2)) == "eager"
    assert kernels.path(torch.func.vmap(lambda row: row)(scores)) == "cpp"
    asked = []
    torch.func.vmap(lambda row: asked.append(kernels.path(row)) or row)(scores[:, None])
    assert asked == ["eager"]


def test_a_mode_is_that_of_one_thread():
    seen = []
    with kernels.use("eager"):
        thread = threading.Thread(target=lambda: (seen.append(kernels.mode()), kernels.use("require")))
        thread.start()
        thread.join()
        assert (kernels.mode(), seen) == ("eager", ["auto"])
    kernels.use("require")
    try:
        assert kernels.mode() == "require"
    finally:
        kernels.use("auto")


def test_a_backward_takes_the_mode_of_its_forward(monkeypatch):
    path, modes = kernels.path, []
    monkeypatch.setattr(kernels, "path", lambda scores: modes.append(kernels.mode()) or path(scores))
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    with kernels.use("eager"):
        losses = linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 2]), reduction="none")
    losses.sum().backward()
    assert len(modes) > 1
    assert set(modes) == {"eager"}


def test_compiled_code_follows_the_mode():
    torch.compiler.reset()
    announce = torch.compile(lambda x: x + ("eager", "cpp").index(kernels.path(x)), fullgraph=True, backend="eager")
    scores = torch.zeros(1)
    for mode, expected in (("auto", 1), ("eager", 0), ("require", 1)):
        with kernels.use(mode):
            assert announce(scores) == expected


def test_every_function_takes_the_path_that_is_announced():
    scores = torch.randn(2, 3, 5, 7, requires_grad=True)
    for name in ("multimax", "sparsemax", "entmax15", "entmax", "evsoftmax"):
        attend = reweight.create(name, num_heads=3)
        for mode, ours in (("auto", True), ("eager", False)):
            with kernels.use(mode):
                assert attend(scores).grad_fn.name().startswith("multimax::") == ours


def test_tensor_operations_go_block_by_block_unless_something_traces_them():
    attend, scores = reweight.create("multimax"), torch.randn(2, 3, 5, 7, requires_grad=True)
    with kernels.use("eager"):
        assert "_MultiMax" in attend(scores).grad_fn.name()
        with FlopCounterMode(display=False):
            assert "_MultiMax" not in attend(scores).grad_fn.name()
        assert "_MultiMax" not in attend.to("meta")(scores.to("meta")).grad_fn.name()


def test_the_sources_are_part_of_what_is_installed(root):
    installed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert build.SOURCES
    assert all(any(source.match(pattern) for pattern in installed["multimax.kernels.cpu"]) for source in build.SOURCES)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the flags are those of x86")
@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_the_kernels_are_right_on_narrower_vectors(capability, root, tmp_path):
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/kernels/test_cpu_rows.py"]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["clang++ -march=native", "aarch64-linux-gnu-g++ -static"])
def test_the_kernels_are_right_by_another_compiler_and_on_neon(compiler, root, tmp_path):
    compiler, *flags = compiler.split()
    emulator = ["qemu-aarch64"] if "aarch64" in compiler else []
    for program in (compiler, *emulator):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not there; apt-get install clang g++-aarch64-linux-gnu qemu-user")
    source, folder = root / "tests/kernels/rows_alone.cpp", root / "multimax/kernels/cpu"
    flags += [flag for flag in build.FLAGS if flag not in ("-fPIC", "-shared")]
    subprocess.run([compiler, *flags, f"-I{folder}", source, "-o", tmp_path / "program", "-pthread"], check=True)
    result = subprocess.run([*emulator, tmp_path / "program"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
