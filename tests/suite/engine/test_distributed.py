"""Several processes do what one does, with the same data, learning rate and loss; and they end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from engine_runs import TEXT_RUNS, configure, fork, make, numbers, stop_at, wait, write_text

from multimax.suite.engine import checkpoint, distributed
from multimax.suite.engine.distributed import Place, address, place
from multimax.suite.errors import UserError
from multimax.suite.runs import Run
from multimax.suite.tasks import task_module
from multimax.suite.tasks.base import Shard

ARGUMENTS = [
    "training.epochs=null", "training.steps=12", "training.log_every=1", "training.evaluate_every=6",
    "training.batch_size=64", "data.mixup=0.8", "data.cutmix=1.0",
]  # fmt: skip


def start(root, run, *extra, processes=1, **environment):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, str(root / "train.py"), f"run_dir={run}", *ARGUMENTS, *extra],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def train(root, run, *extra, processes=1, **environment):
    process = start(root, run, *extra, processes=processes, **environment)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return Run(run).metrics


def test_processes_and_micro_batches_do_not_change_a_run_and_the_script_starts_once_in_each(root, tmp_path):
    started = tmp_path / "started"
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nwith open({str(started)!r}, 'a') as file:\n    print(*sys.orig_argv, file=file)\n"
    )
    one = train(root, tmp_path / "one", PYTHONPATH=str(tmp_path))
    assert len(started.read_text().splitlines()) == 1
    started.unlink()
    two = train(root, tmp_path / "two", "training.micro_batch_size=16", processes=2, PYTHONPATH=str(tmp_path))
    assert len([line for line in started.read_text().splitlines() if "torch.distributed.run" not in line]) == 2
    assert len(one) == len(two) == 14
    for expected, record in zip(one, two, strict=True):
        for key in ("step", "train/loss", "train/learning_rate", "val/loss", "val/top1", "val/images"):
            assert record.get(key) == pytest.approx(expected.get(key), abs=1e-5), (key, expected["step"])


def test_two_processes_stop_together_and_go_on(root, tmp_path):
    """A signal goes first to one of the processes, and then to all, as from a terminal or scancel."""
    run, before = tmp_path / "run", 0
    extra = ["training.steps=60", "training.evaluate_every=60", "data.num_workers=1"]
    for whom in ("one", "group"):
        process = start(root, run, *extra, processes=2)
        while len(Run(run).metrics) < before + 3 and process.poll() is None:
            time.sleep(0.05)
        if whom == "group":
            os.killpg(process.pid, signal.SIGTERM)
        else:
            os.kill(children_of(process.pid)[-1], signal.SIGINT)
        _, errors = process.communicate(timeout=300)
        assert "stopped at step" in errors
        assert "UserError" not in errors
        found, skipped = checkpoint.newest(run / "checkpoints")
        assert found is not None
        assert not skipped
        step = checkpoint.read_manifest(found)["step"]
        assert before < step < 60
        before = step
    resumed = train(root, run, *extra, processes=2)
    assert [record["step"] for record in resumed if "train/loss" in record] == list(range(1, 61))


def start_forked(path, config, world, prepare=lambda running, rank: None):
    """Start processes that train together, without a launcher to watch over them; return their pids and their logs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def work():
        with distributed.processes(torch.device("cpu")):
            running = make(path, config)
            prepare(running, distributed.rank())
            running.run()

    logs = [path.with_name(f"{path.name}-{rank}.log") for rank in range(world)]
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    return [fork(work, log, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank, log in enumerate(logs)], logs


def train_forked(path, config, world, prepare=lambda running, rank: None):
    """Train in several processes; return their exit codes and what they logged."""
    children, logs = start_forked(path, config, world, prepare)
    return [wait(child) for child in children], [log.read_text() for log in logs]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


EXACT = ["model.dropout=0", "training.steps=16"]


@pytest.mark.parametrize("name", TEXT_RUNS)
def test_each_task_has_one_trace_on_any_number_of_processes(text, tmp_path, name):
    """On one process, on three with uneven shares of a batch, and on one that goes on after two were stopped."""
    config = configure(*TEXT_RUNS[name], *text, *EXACT)
    make(tmp_path / "one", config).run()
    codes, logs = train_forked(tmp_path / "three", config, 3)
    assert codes == [0, 0, 0], logs
    codes, logs = train_forked(tmp_path / "moved", config, 2, lambda running, rank: stop_at(running, 5 + 100 * rank))
    assert codes == [130, 130], logs
    make(tmp_path / "moved", config).run()
    expected = numbers(tmp_path / "one")
    for other in ("three", "moved"):
        found = numbers(tmp_path / other)
        assert [record.keys() for record in found] == [record.keys() for record in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5), (other, ours["step"])


@pytest.mark.parametrize("name", ["digits", *TEXT_RUNS])
def test_validation_counts_each_example_once_on_any_number_of_processes(text, name):
    config = configure("model.depth=1") if name == "digits" else configure(*TEXT_RUNS[name], *text)
    task = task_module(config.task).create(config)
    torch.manual_seed(0)
    model = task.build_model().eval()

    def score(world):
        with torch.no_grad():
            parts = [task.evaluate(model, torch.device("cpu"), Shard(rank, world)) for rank in range(world)]
        return task.metrics({key: sum(part[key] for part in parts) for key in parts[0]})

    one = score(1)
    for world in (2, 3, 7):
        assert score(world) == pytest.approx(one, rel=1e-5)


SLOW = """
import os, time, torch
from multimax import reweight

@reweight.register("slow", can_be_zero=False)
def slow(scores, mask=None):
    if not torch.is_grad_enabled() and os.environ["RANK"] != "2":
        time.sleep(300)
    return reweight.softmax(scores, mask=mask)
"""


@pytest.mark.parametrize(("victim", "busy"), [(0, False), (2, True)])
def test_torchrun_ends_all_when_one_is_killed_and_names_it(root, tmp_path, victim, busy):
    """Processes that are evaluating end too, although they exchange nothing then and put off a SIGTERM."""
    (tmp_path / "slow.py").write_text(SLOW)
    steps = [
        "plugins=[slow]",
        "reweight=slow",
        "training.steps=10000",
        f"training.evaluate_every={8 if busy else 9999}",
    ]
    run = tmp_path / "run"
    process = start(root, run, *steps, "training.batch_size=6", processes=3, PYTHONPATH=str(tmp_path))
    while len(Run(run).metrics) < 8 and process.poll() is None:
        time.sleep(0.05)
    ranks = {rank_of(child): child for child in children_of(process.pid)}
    os.kill(ranks[victim], signal.SIGKILL)
    killed = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert process.returncode != 0
    assert not any(os.path.exists(f"/proc/{child}") for child in ranks.values())
    cause = errors[errors.index("Root Cause") :]
    assert f"rank      : {victim} " in cause
    assert "SIGKILL" in cause


def children_of(parent: int) -> list[int]:
    return [int(child) for child in subprocess.run(["pgrep", "-P", str(parent)], capture_output=True).stdout.split()]


def rank_of(process: int) -> int | None:
    variables = dict(
        variable.split(b"=", 1) for variable in Path(f"/proc/{process}/environ").read_bytes().split(b"\0") if variable
    )
    return int(variables[b"RANK"]) if b"RANK" in variables else None


def test_a_process_that_fails_says_why_and_the_others_that_they_lost_it(text, tmp_path):
    """Without a launcher to end them, the others end at their next exchange."""
    config = configure(*TEXT_RUNS["transformer_xl"], *text, "training.steps=10000")

    def prepare(running, rank):
        if rank == 1:
            train_step = running.train_step

            def unreadable(batches):
                if running.step == 3:
                    raise UserError("photo.jpg cannot be read")
                train_step(batches)

            running.train_step = unreadable

    codes, logs = train_forked(tmp_path / "run", config, 2, prepare)
    assert codes == [2, 2], logs
    assert logs[1].splitlines()[-1] == "error: photo.jpg cannot be read"
    assert logs[0].splitlines()[-1].startswith("error: process 0 of 2 has lost contact with another one")
    assert "Traceback" not in logs[0]


def test_a_loss_that_is_infinite_in_one_process_is_skipped_in_all(text, tmp_path):
    config = configure(*TEXT_RUNS["transformer_lm"], *text, "training.steps=16")

    def spoil(running, rank, steps):
        loss = running.task.loss

        def spoiled(model, batch, device):
            return loss(model, batch, device) + (float("inf") if rank == 1 and running.step in steps else 0.0)

        running.task.loss = spoiled

    codes, logs = train_forked(tmp_path / "few", config, 2, lambda running, rank: spoil(running, rank, {3, 7}))
    assert codes == [0, 0], logs
    assert Run(tmp_path / "few").metrics[-2]["train/skipped_steps"] == 2
    codes, logs = train_forked(tmp_path / "many", config, 2, lambda running, rank: spoil(running, rank, range(5, 99)))
    assert codes == [2, 2], logs
    for log in logs:
        assert "the loss or the gradient is not finite by step 8 (3 skipped in a row)" in log.splitlines()[-1]


def test_only_the_first_process_writes(text, tmp_path):
    config = configure(*TEXT_RUNS["transformer_xl"], *text, "training.steps=16", "training.checkpoint_every=4")
    run = tmp_path / "run"

    def watch(running, rank):
        def audit(event, arguments):
            paths = [str(a) for a in arguments if isinstance(a, str | os.PathLike)]
            writes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            changes = event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate") and writes
            if changes and any(path.startswith(str(run)) for path in paths):
                print("WRITES", event, paths, flush=True)

        sys.addaudithook(audit)

    codes, logs = train_forked(run, config, 2, watch)
    assert codes == [0, 0], logs
    assert "WRITES" in logs[0]
    assert "WRITES" not in logs[1]


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}
JOB = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}  # from sbatch and salloc
STEP = {
    **JOB, "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "localhost",
}  # fmt: skip
SHELL = {**STEP, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Place()),
        (TORCHRUN, Place(3, 1, 4)),
        (JOB, Place()),
        (SHELL, Place()),
        (STEP, Place(5, 1, 8, slurm=True)),
        ({**STEP, **TORCHRUN}, Place(3, 1, 4)),
        ({**JOB, **TORCHRUN}, Place(3, 1, 4)),
    ],
    ids=["plain", "torchrun", "sbatch", "salloc", "srun", "torchrun in srun", "torchrun in sbatch"],
)
def test_the_launcher_s_environment_says_who_a_process_is(environment, expected):
    assert place(environment) == expected


def test_slurms_step_says_where_the_first_process_is():
    host, port = address(STEP)
    assert host == "localhost"
    assert {address({**STEP, "SLURM_PROCID": str(rank)}) for rank in range(8)} == {(host, port)}
    others = [{"SLURM_STEP_ID": "3"}, {"SLURM_JOB_ID": "78"}, {"SLURM_RESTART_COUNT": "1"}]
    assert all(address({**STEP, **other})[1] != port for other in others)
    assert address({**STEP, "MASTER_ADDR": "elsewhere", "MASTER_PORT": "5"}) == ("elsewhere", 5)
    with pytest.raises(UserError, match="MASTER_ADDR is not set"):
        address({"RANK": "0", "WORLD_SIZE": "2"})


def test_slurms_list_of_machines_is_read_by_scontrol(tmp_path, monkeypatch):
    script = tmp_path / "scontrol"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "'show hostnames nowhere[3-4]') printf 'nowhere3\\nnowhere4\\n';;\n"
        "'show node nowhere3') echo 'NodeName=nowhere3 Arch=x86_64 NodeAddr=127.0.0.1 NodeHostName=localhost';;\n"
        "*) exit 1;; esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert address({**STEP, "SLURM_STEP_NODELIST": "nowhere[3-4]"})[0] == "127.0.0.1"
    with pytest.raises(UserError, match="set MASTER_ADDR"):
        address({**STEP, "SLURM_STEP_NODELIST": "elsewhere[3-4]"})


def test_the_first_process_alone_looks_at_the_data_and_all_end_where_it_refuses_them(tmp_path):
    def prepare(running, rank):
        def look():
            print("looked")
            raise UserError("too many are left out")

        running.say_what_is_left_out = look

    config = configure("training.epochs=null", "training.steps=2")
    codes, logs = train_forked(tmp_path / "run", config, 2, prepare)
    assert codes == [2, 2]
    assert logs[0].splitlines()[-2:] == ["looked", "error: too many are left out"]
    assert "looked" not in logs[1]
    assert logs[1].splitlines()[-1].strip() == "error:"
