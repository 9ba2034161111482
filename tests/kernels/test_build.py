"""Compiling the CPU's kernels: without a compiler, by several processes at once, and after a kill."""

import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from multimax import kernels, reweight
from multimax.kernels.cpu import build

forked = multiprocessing.get_context("fork")

# Stands in for g++: preprocesses as it does, and takes its time to "compile" what was compiled before.
COMPILER = """#!/bin/sh
case "$*" in *-dM*) exec g++ "$@" ;; esac
echo $$ >> {log}
while [ $# -gt 0 ]; do [ "$1" = -o ] && output=$2; shift; done
head -c 1000 {library} > "$output"
sleep {seconds}
cp {library} "$output"
"""


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Installs the stand-in, for an empty cache; returns its log and a function that sets how long it takes."""
    library, log, script = build.library(), tmp_path / "log", tmp_path / "compiler"
    log.touch()

    def takes(seconds):
        script.write_text(COMPILER.format(log=log, library=library, seconds=seconds))
        script.chmod(0o755)

    takes(0)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    return log, takes


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_processes_that_start_together_compile_once(compiler):
    log, takes = compiler
    takes(1)
    children = [forked.Process(target=build.library) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert len(log.read_text().split()) == 1
    assert build.library().stat().st_size > 1000
    assert len(log.read_text().split()) == 1


def test_a_build_that_was_killed_is_done_anew(compiler):
    log, takes = compiler
    takes(3600)
    child = forked.Process(target=build.library)
    child.start()
    wait_for(lambda: log.read_text().strip())
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    takes(0)
    assert build.library().stat().st_size > 1000
    orphan, _ = map(int, log.read_text().split())
    os.kill(orphan, signal.SIGKILL)


def test_a_damaged_library_is_compiled_anew(compiler):
    log, _ = compiler
    build.library().write_bytes(b"not a library")
    assert build.load() is None
    assert len(log.read_text().split()) == 2


def test_a_build_that_fails_says_so_in_one_line(compiler, monkeypatch):
    monkeypatch.setenv("CXXFLAGS", "-no-such-flag")
    monkeypatch.setenv("CXX", shutil.which("g++"))
    why_not = build.load()
    assert "g++ failed" in why_not
    assert "no-such-flag" in why_not
    assert "\n" not in why_not


@pytest.mark.parametrize("mode", ["auto", "require"])
def test_without_a_compiler(mode, tmp_path):
    code = """
import torch
from multimax import kernels, reweight
scores = torch.randn(4, 9)
for name in ("multimax", "sparsemax", "evsoftmax"):
    reweight.create(name)(scores)
print(kernels.path(scores))
"""
    environment = {**os.environ, "CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path), "MULTIMAX_KERNELS": mode}
    environment.pop("TORCH_EXTENSIONS_DIR", None)
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    last_line = result.stderr.strip().splitlines()[-1]
    assert "no C++ compiler: no-such-compiler is not there" in last_line
    if mode == "auto":
        assert result.stderr.count("\n") == 1
        assert result.stdout == "eager\n"
    else:
        assert last_line.startswith("RuntimeError")


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
@pytest.mark.parametrize("flag", ["-mno-avx512f", "-mno-avx"])
def test_the_kernels_are_right_on_narrower_vectors(flag, root, tmp_path):
    environment = os.environ | {"CXXFLAGS": flag, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
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
