"""Requeueing a job, with a stand-in for scontrol; tests/cluster does it with Slurm itself."""

import os

import pytest

from multimax.suite.engine import slurm


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Make a program ``scontrol`` from a shell line; it writes its arguments to the file ``called``."""

    def make(line: str):
        program = tmp_path / "scontrol"
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n{line}\n')
        program.chmod(0o755)
        return tmp_path / "called"

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return make


def test_outside_slurm_nothing_is_asked_for(scontrol):
    called = scontrol("exit 0")
    assert not slurm.requeue()
    assert not called.exists()


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SLURM_JOB_ID": "17"}, "17"),
        ({"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}, "17_2"),
    ],
)
def test_of_an_array_only_this_member_is_requeued(scontrol, monkeypatch, variables, job):
    called = scontrol("exit 0")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert slurm.requeue()
    assert called.read_text() == f"requeue {job}\n"


def test_a_refusal_is_said_with_its_reason(scontrol, monkeypatch, capsys):
    scontrol("echo 'Requested operation is presently disabled' >&2; exit 1")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert not slurm.requeue()
    assert "cannot be requeued (Requested operation is presently disabled): submit it again" in capsys.readouterr().out
