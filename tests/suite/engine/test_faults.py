"""Runs that are killed at any instant, whose files are damaged or whose disk is full. The tests count these faults."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_runs import LANGUAGE_MODELS, configure, fork, make, numbers, stop_at, wait, write_text
from torch import nn

from multimax.suite.engine import checkpoint
from multimax.suite.errors import Interrupted, UserError
from multimax.suite.files import read_lines

KILLS = 100


def same_run(path: Path, whole: Path) -> bool:
    """Whether a run that was interrupted ends with the same numbers, weights and files as the whole one."""
    return (
        same_end(path, whole)
        and sorted(p.name for p in path.iterdir()) == sorted(p.name for p in whole.iterdir())
        and sorted(p.name for p in path.glob("checkpoints/*")) == sorted(p.name for p in whole.glob("checkpoints/*"))
    )


def same_end(path: Path, whole: Path) -> bool:
    """Whether two runs logged the same and have the same weights, to the last bit."""
    last = [max(p.glob("checkpoints/step-*")) / "model.safetensors" for p in (path, whole)]
    return numbers(path) == numbers(whole) and last[0].read_bytes() == last[1].read_bytes()


def wait_for_lines(count: int, path: Path, child: int) -> None:
    """Wait until a run has written ``count`` lines to a file, or has ended."""
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)


def test_killed_at_random_moments_a_run_loses_nothing(tmp_path, record_property):
    """Each run is killed again and again, whatever it is doing, and restarted until it has finished.

    The moment of a kill is drawn in steps, which are timed anew after each start, since the machine may become slower.
    Only kills after training has begun count. About a fifth of the starts are killed before that.
    """
    overrides = [*write_text(tmp_path), "training.steps=24", "training.checkpoint_every=1"]
    config = configure(*LANGUAGE_MODELS["transformer_xl"], *overrides)
    whole = tmp_path / "whole"
    assert wait(fork(lambda: make(whole, config).run(), tmp_path / "log")) == 0

    generator, kills, early, runs, lost = random.Random(0), 0, 0, 0, 0
    resumed_from, preparing = set(), 0.1
    while kills < KILLS:
        path, code = tmp_path / f"run{runs}", None
        starts, metrics = path / "starts.jsonl", path / "metrics.jsonl"
        while code != 0:
            before = len(read_lines(starts))
            forked = time.monotonic()
            child = fork(lambda path=path: make(path, config).run(), tmp_path / "log")
            if generator.random() < 0.2:
                time.sleep(generator.uniform(0.0, preparing))
                os.kill(child, signal.SIGKILL)
            elif kills < KILLS:
                wait_for_lines(before + 1, starts, child)
                begun, done = time.monotonic(), len(read_lines(metrics))
                preparing = begun - forked
                steps = generator.uniform(1, 8)
                wait_for_lines(done + int(steps), metrics, child)
                time.sleep(steps % 1 * (time.monotonic() - begun) / int(steps))
                os.kill(child, signal.SIGKILL)
            code = wait(child)
            if code != 0:
                assert code == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
                trained = len(read_lines(starts)) > before
                kills, early = kills + trained, early + (not trained)
        resumed_from |= {start["step"] for start in read_lines(starts)}
        runs += 1
        lost += not same_run(path, whole)
        shutil.rmtree(path)
    record_property(
        "faults",
        f"{kills} kills in training and {early} before it in {runs} runs, "
        f"resumed from {len(resumed_from)} different steps",
    )
    record_property("lost", lost)
    assert lost == 0
    assert kills >= KILLS
    assert len(resumed_from) > 5


def killed_at(operation: int, work) -> bool:
    """Do ``work`` in a child that dies at its next change of the disk after ``operation``; False if it lives."""

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
    faults = lost = 0
    while killed_at(faults, lambda: save(2)):
        found, skipped = checkpoint.newest(tmp_path / "c", "run")
        lost += found is None or found.name not in ("step-00000001", "step-00000002") or bool(skipped)
        if found is not None and found.name == "step-00000002":  # killed while clearing up: begin anew
            shutil.rmtree(tmp_path / "c")
            save(1)
        faults += 1
    assert lost == 0
    assert faults > 10
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000002"]
    record_property("faults", f"{faults} kills, one before each change of the file system by a save")
    record_property("lost", lost)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The configuration of a small run, and the path of that run, uninterrupted."""
    root = tmp_path_factory.mktemp("text")
    config = configure(
        *LANGUAGE_MODELS["transformer_xl"], *write_text(root), "training.steps=12", "training.checkpoint_every=2",
        "training.keep_checkpoints=9",
    )  # fmt: skip
    make(root / "whole", config).run()
    return config, root / "whole"


def stopped(config, path, step=11):
    """Stop a run in a step; return its path."""
    running = make(path, config)
    stop_at(running, step)
    with pytest.raises(Interrupted):
        running.run()
    running.writer.run_lock.close()
    return path


def damage(victim: Path, kind: str, generator: random.Random) -> None:
    content = bytearray(victim.read_bytes())
    if kind == "gone":
        victim.unlink()
        return
    if kind == "cut":
        content = content[: generator.randrange(len(content))]
    elif kind == "flipped":
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    victim.write_bytes(content)


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(text, tmp_path, capsys, record_property):
    config, whole = text
    generator, faults, lost = random.Random(0), 0, 0
    broken = stopped(config, tmp_path / "broken")
    kinds = ["cut", "flipped", "gone", "foreign", "renamed"]
    other = stopped(replace(config, seed=1), tmp_path / "other")
    for trial, kind in enumerate(kinds * 2):
        path = tmp_path / str(trial)
        shutil.copytree(broken, path)
        newest = sorted(path.glob("checkpoints/step-*"), reverse=True)
        bad = newest[: 1 + trial % 3]
        for victim in bad:
            if kind == "foreign":
                shutil.rmtree(victim)
                shutil.copytree(other / "checkpoints" / victim.name, victim)
            elif kind == "renamed":
                shutil.rmtree(victim)
                shutil.copytree(path / "checkpoints" / "step-00000002", victim)
            else:
                damage(generator.choice(sorted(victim.iterdir())), kind, generator)
            faults += 1
        capsys.readouterr()
        make(path, config).run()
        said = capsys.readouterr().out
        for victim in bad:
            assert f"skipping checkpoint {victim}: " in said
        assert ("it is of another run" in said) == (kind == "foreign")
        assert ("it is that of step 2" in said) == (kind == "renamed")
        assert f"resuming from {newest[len(bad)]}" in said
        assert [p.name for p in path.glob("checkpoints/damaged-*")] == [f"damaged-{bad[0].name}"]
        lost += not same_end(path, whole)
    record_property("faults", f"{faults} damaged checkpoints in {2 * len(kinds)} runs")
    record_property("lost", lost)
    assert lost == 0


def test_the_disk_has_all_metrics_up_to_a_checkpoint_before_it(text, tmp_path, monkeypatch):
    flushed, saved = {}, []
    fsync, save = os.fsync, checkpoint.save

    def noted_fsync(descriptor):
        fsync(descriptor)
        flushed[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    def checked_save(folder, step, *rest):
        run = folder.parent
        metrics = (run / "metrics.jsonl").stat()
        saved.append((flushed.get(metrics.st_ino) == metrics.st_size, run.stat().st_ino in flushed))
        return save(folder, step, *rest)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(checkpoint, "save", checked_save)
    make(tmp_path / "run", text[0]).run()
    assert len(saved) > 5
    assert all(metrics and folder for metrics, folder in saved)


def test_damaged_checkpoints_do_not_push_out_good_ones(text, tmp_path):
    config = replace(text[0], training=replace(text[0].training, keep_checkpoints=1))
    path = stopped(text[0], tmp_path / "run")
    for victim in sorted(path.glob("checkpoints/step-*"))[2:]:
        damage(victim / "training.pt", "cut", random.Random(0))
    stopped(config, path, step=5)
    found, skipped = checkpoint.newest(path / "checkpoints")
    assert (found.name, skipped) == ("step-00000005", {})


def test_where_all_checkpoints_are_damaged_the_run_does_not_start_over(text, tmp_path):
    config, _ = text
    path = stopped(config, tmp_path / "run", step=5)
    before = numbers(path)
    for victim in path.glob("checkpoints/step-*/model.safetensors"):
        damage(victim, "flipped", random.Random(0))
    with pytest.raises(UserError, match="is whole: to start over, delete"):
        make(path, config).run()
    assert numbers(path) == before
    assert len(list(path.glob("checkpoints/step-*"))) == 3


def test_a_full_disk_ends_a_run_in_one_line_and_freed_it_goes_on(text, tmp_path, record_property):
    config, whole = text
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    faults = lost = 0
    try:
        for room in range(0, 144, 12):  # kilobytes; a whole run takes about a hundred
            path, filler, log = disk / "run", disk / "filler", tmp_path / f"log{room}"
            filler.write_bytes(bytes((2048 - room) * 1024 - 4096))
            code = wait(fork(lambda path=path: make(path, config).run(), log))
            lines = log.read_text().splitlines()
            assert code == 2, lines
            assert [line for line in lines if "Traceback" in line] == []
            assert "No space left" in lines[-1] or "no space left" in lines[-1]
            if path.exists() and (path / "checkpoints").exists():
                assert not checkpoint.newest(path / "checkpoints")[1]
            filler.unlink()
            make(path, config).run()
            lost += not same_end(path, whole)
            shutil.rmtree(path)
            faults += 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    record_property("faults", f"{faults} times a full disk")
    record_property("lost", lost)
    assert lost == 0


class Executable:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_file_of_a_run_can_run_code(text, tmp_path):
    config, _ = text
    path = stopped(config, tmp_path / "run", step=2)
    (newest,) = path.glob("checkpoints/step-*")
    training = newest / "training.pt"
    torch.save({"progress": Executable(tmp_path / "ran")}, training)
    manifest = newest / "manifest.json"
    content = json.loads(manifest.read_text())["content"]  # whoever forges a checkpoint can forge its checksums
    content["files"]["training.pt"] = checkpoint.sha256(training)
    manifest.write_text(json.dumps({"content": content, "sha256": checkpoint.digest(content)}))
    with pytest.raises(UserError, match=r"training\.pt"):
        make(path, config).run()
    (path / "config.yaml").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    with pytest.raises(UserError, match=r"config\.yaml"):
        make(path, config)
    assert not (tmp_path / "ran").exists()
