"""Odd homes, launchers' leftovers, full disks: a run works or one line says what is wrong.

That line comes within ten seconds of CPU time.
"""

import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import fuzzing
import pytest
import torch

from multimax import kernels
from multimax.suite import waiting
from multimax.suite.engine import distributed
from multimax.suite.engine.distributed import Place, place
from multimax.suite.errors import UserError, limits_explained


@dataclass
class Surroundings:
    """Environment variables (None: unset), what the process does to itself, and key overrides."""

    variables: dict[str, str | None] = field(default_factory=dict)
    prepare: Callable[[], None] = fuzzing.nothing
    overrides: tuple[str, ...] = ()
    says: str | None = None  # part of the error's line; None: the run is trained
    fresh: bool = False  # for variables that are read at import


def nobody() -> None:
    os.setresuid(54321, 0, 0)  # a user without an entry in the password file


def small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def closed() -> None:
    """Close standard input and output, as ``<&- >&-`` does in a shell."""
    for number in (0, 1):
        os.close(number)
    sys.stdin = sys.stdout = None


def gone() -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()


def mount(place: str, *options: str) -> None:
    """Mount a temporary file system that only this process sees."""
    Path(place).mkdir(exist_ok=True)
    if ctypes.CDLL(None, use_errno=True).unshare(0x20000):  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", place], check=True)


def read_only() -> None:
    mount("run", "-o", "ro")


def full() -> None:
    mount("run", "-o", "size=16k")


def little_shared_memory() -> None:
    mount("/dev/shm", "-o", "size=4k")


def can_mount() -> bool:
    try:
        return not subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True
        ).returncode
    except OSError:
        return False


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"}
STEP = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
NO_HOME: dict[str, str | None] = {"HOME": None, "XDG_CACHE_HOME": None}
WANDB = ("logger=wandb",)
TABLE = {
    "no HOME": Surroundings(NO_HOME),
    "no HOME and a user without a name": Surroundings(NO_HOME, nobody),
    "the same with text": Surroundings(NO_HOME, nobody, ("task=lm",), says="no home"),
    "the same with W&B": Surroundings({**NO_HOME, "WANDB_MODE": "offline", "USER": None}, nobody, WANDB),
    "the same with TensorBoard": Surroundings(NO_HOME, nobody, ("logger=tensorboard",)),
    "a HOME that cannot be written": Surroundings({"HOME": "/proc/1", "XDG_CACHE_HOME": None}),
    "the same with pairs": Surroundings({"HOME": "/proc/1"}, overrides=("task=mt",), says="data.cache_dir"),
    "no folder for temporary files": Surroundings({"TMPDIR": "/nowhere"}, fresh=True),
    "standard streams that are closed": Surroundings(prepare=closed),
    "a working folder that has gone": Surroundings(prepare=gone, says="no longer exists"),
    "a limit on files": Surroundings(prepare=small_files, says="no checkpoint can be written"),
    "run_dir on a file": Surroundings(overrides=("run_dir=/dev/null/run",), says="/dev/null/run"),
    "run_dir where none can be": Surroundings(overrides=("run_dir=/proc/run",), says="/proc/run"),
    "RANK left over": Surroundings({"RANK": "0"}),
    "WORLD_SIZE left over": Surroundings({"WORLD_SIZE": "2"}),
    "MASTER_ADDR left over": Surroundings({"MASTER_ADDR": "elsewhere", "MASTER_PORT": "1"}),
    "RANK is no number": Surroundings({**TORCHRUN, "RANK": "a"}, says="RANK=a"),
    "LOCAL_RANK is no number": Surroundings({**TORCHRUN, "LOCAL_RANK": ""}, says="LOCAL_RANK="),
    "RANK beyond WORLD_SIZE": Surroundings({**TORCHRUN, "RANK": "2"}, says="RANK=2"),
    "no MASTER_ADDR": Surroundings({**TORCHRUN, "MASTER_ADDR": None}, says="MASTER_ADDR is not set"),
    "MASTER_PORT is no number": Surroundings({**TORCHRUN, "MASTER_PORT": "x"}, says="MASTER_PORT=x"),
    "the shell of salloc": Surroundings({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}),
    "a step of one task": Surroundings({**STEP, "SLURM_STEP_NUM_TASKS": "1"}),
    "SLURM_STEP_NUM_TASKS is no number": Surroundings({**STEP, "SLURM_STEP_NUM_TASKS": "x"}, says="NUM_TASKS=x"),
    "SLURM_RESTART_COUNT is no number": Surroundings({"SLURM_RESTART_COUNT": "x"}),
    "W&B disabled": Surroundings({"WANDB_MODE": "disabled"}, overrides=WANDB),
    "W&B disabled in the old way": Surroundings({"WANDB_DISABLED": "true", "WANDB_MODE": "offline"}, overrides=WANDB),
    "WANDB_MODE is none": Surroundings({"WANDB_MODE": "sometimes"}, overrides=WANDB),
    "a key of W&B that is none": Surroundings({"WANDB_API_KEY": "short", "WANDB_MODE": None}, overrides=WANDB),
    "W&B's id of another run": Surroundings({"WANDB_RUN_ID": "a/b", "WANDB_MODE": "offline"}, overrides=WANDB),
    "in a sweep of W&B's": Surroundings({"WANDB_SWEEP_ID": "x", "WANDB_MODE": "offline"}, overrides=WANDB),
    "W&B has to resume": Surroundings({"WANDB_RESUME": "must", "WANDB_MODE": "offline"}, overrides=WANDB),
    "W&B's address is none": Surroundings({"WANDB_BASE_URL": "nowhere", "WANDB_MODE": None}, overrides=WANDB),
    "W&B's folders cannot be": Surroundings({"WANDB_DIR": "/dev/null/x", "WANDB_MODE": "offline"}, overrides=WANDB),
    "OMP_NUM_THREADS is no number": Surroundings({"OMP_NUM_THREADS": "all"}, fresh=True),
    "CUDA_VISIBLE_DEVICES is none": Surroundings({"CUDA_VISIBLE_DEVICES": "all"}, fresh=True),
    "MULTIMAX_KERNELS is no mode": Surroundings({"MULTIMAX_KERNELS": "x"}, says="MULTIMAX_KERNELS=x", fresh=True),
    "MULTIMAX_KERNELS wants what is not there": Surroundings(
        {
            "MULTIMAX_KERNELS": "require",
            "CXX": "no-such-compiler",
            "XDG_CACHE_HOME": "cache",
            "TORCH_EXTENSIONS_DIR": None,
        },
        says="no C++ compiler",
        fresh=True,
    ),
    "a run folder that cannot be written": Surroundings(prepare=read_only, says="Read-only file system"),
    "a run folder on a full disk": Surroundings(prepare=full, says="no space left for a checkpoint"),
    "a small /dev/shm": Surroundings(
        prepare=little_shared_memory, overrides=("data.num_workers=1",), says="/dev/shm is full"
    ),
    "a model beyond the memory": Surroundings(overrides=("model.embed_dim=200000",), says="out of memory"),
    "no proxy": Surroundings({"HTTPS_PROXY": "http://localhost:1", "WANDB_MODE": None}, overrides=WANDB),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid") / "base"
    fuzzing.prepare(folder)
    return folder


@pytest.mark.parametrize("name", TABLE)
def test_it_works_or_one_line_says_what_is_wrong(base, tmp_path, name):
    case = TABLE[name]
    if case.prepare is nobody and os.getuid():
        pytest.skip("only root can be a user without a name")
    if case.prepare in (read_only, full, little_shared_memory) and not can_mount():
        pytest.skip("this user, or this container, may not mount a file system")
    task = next((word.removeprefix("task=") for word in case.overrides if word.startswith("task=")), "deit")
    left_out = ("run_dir=", "data.cache_dir=")
    words = [word for word in fuzzing.overrides(base, task) if not word.startswith(left_out)]
    command = ["train.py", *words, f"run_dir={tmp_path / 'run'}", *case.overrides]
    found = fuzzing.run(command, tmp_path, name, case.variables, case.prepare, fresh=case.fresh)
    if case.says is None:
        assert (found.code, (tmp_path / "run" / "summary.json").exists()) == (0, True), found.errors
    else:
        assert found.is_fine, found.errors
        assert found.code == 2
        assert case.says in found.errors
        assert found.cpu_seconds < 10


def test_weights_that_are_a_pipe_keep_nobody_waiting(base, tmp_path):
    shutil.copytree(base / "runs" / "deit", tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "step-00000002" / "model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    command = ["evaluate.py", str(tmp_path / "run"), f"data.root={base / 'data' / 'deit'}"]
    found = fuzzing.run(command, tmp_path, "pipe", seconds=60)
    assert (found.code, found.is_fine) == (2, True), found.errors
    assert "model.safetensors cannot be read (it is a pipe or a device, not a file)" in found.errors


def test_figures_need_no_display_and_no_backend_of_a_notebook(base, tmp_path):
    command = ["figures", "statistics", str(base / "runs" / "deit"), "--to", str(tmp_path)]
    found = fuzzing.run(command, tmp_path, "backend", {"MPLBACKEND": "notebook", "DISPLAY": "nowhere"}, fresh=True)
    assert found.code == 0, found.errors


def no_mode() -> None:
    kernels._of_thread.mode = "x"  # as if imported with MULTIMAX_KERNELS=x


@pytest.mark.parametrize("name", ["evaluate.py", "generate.py", "figures", "report"])
def test_every_command_refuses_a_mode_that_is_none(tmp_path, name):
    found = fuzzing.run([name, "x"], tmp_path, name, prepare=no_mode)
    assert (found.code, found.is_fine) == (2, True), found.errors
    assert "MULTIMAX_KERNELS=x" in found.errors


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0"),
            "(20.00 MiB were asked for)",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40 bytes."), "(40 bytes were"),
        (RuntimeError("std::bad_alloc"), "micro_batch_size"),
        (MemoryError(), "micro_batch_size"),
    ],
)
def test_out_of_memory_is_one_line_with_the_remedy(error, says):
    with pytest.raises(UserError, match="out of memory") as caught, limits_explained():
        raise error
    assert says in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes"), limits_explained():
        raise RuntimeError("shapes differ")


LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin-1"},
]


@pytest.mark.parametrize("variables", LOCALES, ids=str)
def test_without_utf_8_nothing_is_lost(base, root, tmp_path, variables):
    """Translations are UTF-8 on any terminal; an error with other letters leaves no traceback."""
    command = [
        sys.executable,
        str(root / "evaluate.py"),
        str(base / "runs" / "mt"),
        f"data.root={base / 'data' / 'mt'}",
    ]
    text = "der Hund schläft\n".encode()
    environment = {**os.environ, **variables}
    done = subprocess.run([*command, "--translate", "-"], input=text, capture_output=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    done.stdout.decode("utf-8")
    (tmp_path / "datä").mkdir()
    command = [sys.executable, str(root / "train.py"), "task=lm", "data=wikitext2", f"data.root={tmp_path / 'datä'}"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, env=environment, timeout=200)
    assert refused.returncode == 2
    assert b"Traceback" not in refused.stderr
    assert b"error: " in refused.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_standard_output(base, root):
    command = [
        sys.executable,
        str(root / "evaluate.py"),
        str(base / "runs" / "lm"),
        f"data.root={base / 'data' / 'lm'}",
    ]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=200)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*standard output.*: No space left on device\n", done.stderr)


def impatient() -> None:
    from multimax.suite.loggers import wandb_mirror

    waiting.FIRST, wandb_mirror.INIT_SECONDS = 0.5, 4
    distributed.JOIN_TIMEOUT = distributed.TERMINAL_JOIN_TIMEOUT = timedelta(seconds=2)


def test_who_waits_for_other_processes_says_so(base, tmp_path):
    command = ["train.py", *fuzzing.overrides(base, "lm")]
    found = fuzzing.run(command, tmp_path, "alone", {**TORCHRUN, "WORLD_SIZE": "2"}, impatient)
    assert "waiting for the other 1 of WORLD_SIZE=2 processes at localhost:29511" in found.errors
    assert "cannot join the others at localhost:29511" in found.errors


def test_a_terminal_of_a_step_of_several_tasks_ends_with_the_remedy(base, tmp_path):
    assert distributed.TERMINAL_JOIN_TIMEOUT < timedelta(minutes=1) < distributed.JOIN_TIMEOUT
    step = {**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_PTY_PORT": "1"}
    found = fuzzing.run(["train.py", *fuzzing.overrides(base, "lm")], tmp_path, "pty", step, impatient, seconds=60)
    assert (found.code, found.is_fine) == (2, True), found.errors
    assert "unset SLURM_STEP_NUM_TASKS" in found.errors


def test_who_waits_for_wandb_says_so_and_goes_on(base, tmp_path):
    variables = {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": None, "WANDB_BASE_URL": "http://localhost:1"}
    words = [word for word in fuzzing.overrides(base, "deit") if not word.startswith("run_dir=")]
    command = ["train.py", *words, f"run_dir={tmp_path / 'run'}", *WANDB, "logger.mode=online"]
    found = fuzzing.run(command, tmp_path, "W&B", variables, impatient, seconds=90)
    assert (found.code, (tmp_path / "run" / "summary.json").exists()) == (0, True), found.errors
    assert "waiting for W&B" in found.errors


def test_waiting_is_said_again_and_ends(monkeypatch, capsys):
    monkeypatch.setattr(waiting, "FIRST", 0.02)
    monkeypatch.setattr(waiting, "THEN", 0.05)
    with waiting.waiting("Godot"):
        time.sleep(0.5)
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= 3
    assert all(line.startswith("waiting for Godot") for line in said)
    with waiting.waiting("nothing"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Place()),
        (TORCHRUN, Place(0, 0, 2)),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, Place(1, 1, 2, slurm=True)),
        ({**TORCHRUN, **STEP, "SLURM_STEP_NUM_TASKS": "4"}, Place(0, 0, 2)),
        ({**TORCHRUN, "RANK": "-1"}, None),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, None),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "2"}, None),
    ],
)
def test_the_place_of_a_process(environment, expected):
    if expected is not None:
        assert place(environment) == expected
        return
    with pytest.raises(UserError, match="unset"):
        place(environment)
