"""A run folder is held by one run, and its files say when something of them is lost."""

import errno
import fcntl
import os

import pytest
from engine_runs import configure

from multimax.suite.engine import run_writer
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.errors import UserError
from multimax.suite.files import read_lines, write_lines


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


def test_a_line_cut_short_at_the_end_is_left_out_and_any_other_damage_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [{"step": step, "train/loss": 0.5} for step in range(3)]
    write_lines(path, good)
    whole = path.read_bytes()
    assert read_lines(path) == good
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        left = whole[: cut + 1].count(b"\n")  # a line is whole without its end too
        assert read_lines(path) == good[:left]
    for damaged in (b"\0" * 9, b"", b'{"step": 1, "tr', b"\xff\xfe"):
        lines = whole.splitlines()
        lines[1] = damaged
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(UserError, match=f"line 2 of {path} is damaged"):
            read_lines(path)
    path.unlink()
    assert read_lines(path) == []
