"""A run folder is locked by one run at a time, and damage to its files is noticed."""

import errno
import fcntl
import os
import threading
import time
from dataclasses import asdict, replace

import pytest
import yaml
from engine_runs import configure

from multimax.suite import files, waiting
from multimax.suite.engine import run_writer
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.errors import UserError
from multimax.suite.files import read_lines, write_lines
from multimax.suite.identity import identity, run_name
from multimax.suite.runs import Run


def test_a_file_system_without_locks_is_said_and_trained_on(tmp_path, monkeypatch, capsys):
    for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):

        def flock(file, operation, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        RunWriter(tmp_path, configure()).open(dict)
        said = capsys.readouterr().out
        assert f"{tmp_path} is on a file system without locks ({os.strerror(number)})" in said


@pytest.mark.parametrize("restarts", [None, "0", "1"])
def test_a_restarted_job_waits_for_the_lock_of_its_former_start(tmp_path, monkeypatch, restarts):
    if restarts is None:
        monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    else:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    first, second = RunWriter(tmp_path, configure()), RunWriter(tmp_path, configure())
    first.open(dict)
    monkeypatch.setattr(run_writer.time, "sleep", lambda seconds: first.run_lock.close())
    if restarts == "1":
        second.open(dict)
        assert first.run_lock.closed
    else:
        with pytest.raises(UserError, match="trained by another process"):
            second.open(dict)


def test_a_restarted_job_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(run_writer, "LOCK_WAIT", 2)
    holder = RunWriter(tmp_path, configure())
    holder.open(dict)
    with pytest.raises(UserError, match="trained by another process"):
        RunWriter(tmp_path, configure()).open(dict)


def test_two_processes_that_write_one_file_do_not_meet(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"

    def meanwhile(_):
        if (child := os.fork()) == 0:
            monkeypatch.undo()
            files.write_atomic(path, "theirs")
            os._exit(0)
        os.waitpid(child, 0)
        assert path.read_text() == "theirs"

    monkeypatch.setattr(os, "fsync", meanwhile)
    files.write_atomic(path, "ours")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("table.csv", "ours")]


def test_of_two_that_want_a_folder_alone_one_waits_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(waiting, "FIRST", 0.05)
    inside, done = threading.Event(), []

    def first():
        with files.alone(tmp_path):
            inside.set()
            time.sleep(0.3)
            done.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with files.alone(tmp_path):
        done.append("second")
    thread.join()
    assert done == ["first", "second"]
    assert "waiting for another process that writes in" in capsys.readouterr().err
    with files.alone(tmp_path / "absent"):
        pass


def test_a_line_cut_short_at_the_end_is_left_out_and_any_other_damage_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [{"step": step, "train/loss": 0.5} for step in range(3)]
    write_lines(path, good)
    whole = path.read_bytes()
    assert read_lines(path) == good
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        left = whole[: cut + 1].count(b"\n")  # a line that lacks only its newline is whole too
        assert read_lines(path) == good[:left]
    for damaged in (b"\0" * 9, b"", b'{"step": 1, "tr', b"\xff\xfe"):
        lines = whole.splitlines()
        lines[1] = damaged
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(UserError, match=f"line 2 of {path} is damaged"):
            read_lines(path)
    path.unlink()
    assert read_lines(path) == []


def test_another_version_of_the_numerics_is_another_run_and_the_first_is_in_no_name(tmp_path, monkeypatch):
    first = replace(configure(), numerics=1)
    second = replace(first, numerics=2)
    monkeypatch.setattr(run_writer, "NUMERICS", 1)
    assert "numerics" not in identity(asdict(first), type(first))
    assert run_name(first) != run_name(second)
    RunWriter(tmp_path, first).open(dict)
    with pytest.raises(UserError, match="numerics=2: this code computes by version 1"):
        RunWriter(tmp_path / "other", second)
    monkeypatch.setattr(run_writer, "NUMERICS", 2)
    for old in (asdict(first), {key: value for key, value in asdict(first).items() if key != "numerics"}):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
        with pytest.raises(UserError, match=r"another configuration \(numerics was 1, now 2\)"):
            RunWriter(tmp_path, second)


def test_other_data_are_refused_and_those_of_a_run_from_before_fingerprints_are_taken_as_they_are(tmp_path):
    digits, letters = {"classes": ["0", "1"]}, {"classes": ["a", "b"]}
    first = RunWriter(tmp_path, configure())
    first.open(lambda: digits)
    first.run_lock.close()
    with pytest.raises(UserError, match=r"run of other data \(classes: a, b here, 0, 1 in the run\)"):
        RunWriter(tmp_path, configure()).open(lambda: letters)
    (tmp_path / "data.json").unlink()
    RunWriter(tmp_path, configure()).open(lambda: letters)
    assert Run(tmp_path).data == letters


def test_a_start_has_its_command_and_says_when_the_code_is_another(tmp_path, monkeypatch, capsys):
    command = "python train.py task=deit 'data.name=a b'"
    for number, revision in enumerate(["one", "one", "two"]):
        monkeypatch.setattr(run_writer, "revision", lambda revision=revision: revision)
        writer = RunWriter(tmp_path, configure(), command=command)
        writer.open(dict)
        writer.start(number)
        writer.run_lock.close()
    assert [start["command"] for start in Run(tmp_path).starts] == [command] * 3
    said = [line for line in capsys.readouterr().out.splitlines() if "code" in line]
    assert said == ["the code has changed since the last start: it was one, now two"]
    writer.finish({"top1": 1.0}, metric="top1")
    assert (Run(tmp_path).score, Run(tmp_path).summary["command"]) == (1.0, command)
