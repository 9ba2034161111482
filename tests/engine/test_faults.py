"""Runs that are killed at any instant, whose files are damaged, whose disk is full; the tests count what they do."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from engine_runs import LANGUAGE_MODELS, configure, fork, make, numbers, wait, write_text
from torch import nn

from multimax.engine import checkpoint
from multimax.engine.run_folder import read_lines

KILLS = 100


def same_run(path: Path, whole: Path) -> bool:
    """Whether a run that was broken has come to all that the whole one has, and to nothing else."""
    last = [max(p.glob("checkpoints/step-*")) for p in (path, whole)]
    return (
        numbers(path) == numbers(whole)
        and sorted(p.name for p in path.iterdir()) == sorted(p.name for p in whole.iterdir())
        and sorted(p.name for p in path.glob("checkpoints/*")) == sorted(p.name for p in whole.glob("checkpoints/*"))
        and (last[0] / "model.safetensors").read_bytes() == (last[1] / "model.safetensors").read_bytes()
    )


def test_killed_at_random_moments_a_run_loses_nothing(tmp_path, record_property):
    """Each run is killed again and again, at whatever it is doing, and started again until it has finished."""
    overrides = [*write_text(tmp_path), "training.steps=24", "training.checkpoint_every=1"]
    config = configure(*LANGUAGE_MODELS["transformer_xl"], *overrides)
    whole = tmp_path / "whole"
    started = time.monotonic()
    assert wait(fork(lambda: make(whole, config).run(), tmp_path / "log")) == 0
    lasts = time.monotonic() - started

    generator, kills, runs, lost = random.Random(0), 0, 0, 0
    resumed_from = set()
    while kills < KILLS:
        path = tmp_path / f"run{runs}"
        while True:
            child = fork(lambda path=path: make(path, config).run(), tmp_path / "log")
            if kills < KILLS:
                time.sleep(generator.uniform(0.0, lasts / 3))
                os.kill(child, signal.SIGKILL)
            code = wait(child)
            if code == 0:
                break
            assert code == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
            kills += 1
        resumed_from |= {start["step"] for start in read_lines(path / "starts.jsonl")}
        runs += 1
        lost += not same_run(path, whole)
        shutil.rmtree(path)
    record_property("faults", f"{kills} kills in {runs} runs, resumed from {len(resumed_from)} different steps")
    record_property("lost", lost)
    assert lost == 0
    assert kills == KILLS
    assert len(resumed_from) > 5


def killed_at(operation: int, work) -> bool:
    """Do ``work`` in a child that dies just before its ``operation``-th change of the disk; False if it lives."""

    def dying():
        left = operation

        def audit(event, arguments):
            nonlocal left
            writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and writes:
                left -= 1
                if left < 0:
                    os._exit(99)

        fsync = os.fsync

        def counted(descriptor):
            audit("os.rename", ())
            fsync(descriptor)

        os.fsync = counted
        sys.addaudithook(audit)
        work()

    return wait(fork(dying, Path(os.devnull))) == 99


def test_killed_at_any_operation_of_a_save_one_whole_checkpoint_stands(tmp_path, record_property):
    def save(step):
        torch.manual_seed(step)
        checkpoint.save(tmp_path / "c", step, nn.Linear(4, 4), nn.Linear(4, 4), {"step": step}, float(step), "run")
        checkpoint.prune(tmp_path / "c", 1, higher_is_better=True)

    save(1)
    faults = 0
    while killed_at(faults, lambda: save(2)):
        found, skipped = checkpoint.newest(tmp_path / "c", "run")
        assert found is not None
        assert found.name in ("step-00000001", "step-00000002"), faults
        assert not skipped, faults
        if found.name == "step-00000002":  # killed while it cleared up: once more from where it was
            shutil.rmtree(tmp_path / "c")
            save(1)
        faults += 1
    assert faults > 10
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000002"]
    record_property("faults", f"{faults} kills, one before each change of the file system by a save")
    record_property("lost", 0)
