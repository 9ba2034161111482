"""Runs and results are in the same places, wherever a command is started."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from multimax.suite import cli, completion
from multimax.suite.composition import compose_configuration, typed
from multimax.suite.identity import run_folder, run_name
from multimax.suite.report.__main__ import main as report


def test_runs_are_in_their_root_or_where_the_run_says(monkeypatch, tmp_path):
    def folder(*overrides):
        return run_folder(typed(compose_configuration(overrides)))

    name = run_name(typed(compose_configuration([])))
    monkeypatch.delenv("MULTIMAX_RUNS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == Path("runs") / name
    assert folder("runs_dir=~/there") == tmp_path / "there" / name
    monkeypatch.setenv("MULTIMAX_RUNS", "/scratch/runs")
    assert folder() == Path("/scratch/runs") / name
    assert folder("runs_dir=there") == Path("there") / name
    assert folder("run_dir=~/here", "runs_dir=there") == tmp_path / "here"


@pytest.mark.parametrize("override", ["hydra.run.dir=elsewhere", "hydra.sweep.subdir=a", "++hydra.job.chdir=true"])
def test_hydra_s_folders_are_refused_in_a_line(monkeypatch, capsys, tmp_path, override):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", override])
    with pytest.raises(SystemExit) as left:
        cli.train()
    assert left.value.code == 2
    assert "set those" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_the_report_finds_the_results_of_the_clone_from_any_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", "wanted", "iwslt14-*"])
    report()
    assert "task=mt" in capsys.readouterr().out
    (tmp_path / "results").mkdir()
    with pytest.raises(SystemExit):
        report()


def test_tab_completion_is_bash_s_own_and_quick(monkeypatch, capsys, tmp_path):
    completion.main()
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)

    def completed(*line):
        words = " ".join(map(shlex.quote, line))
        ask = f"COMP_WORDS=({words}) COMP_CWORD={len(line) - 1}; _multimax_train; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "-c", f"source {script}; {ask}"], capture_output=True, text=True, timeout=20)
        return set(done.stdout.split())

    # Plugins may add tasks.
    assert completed("python", "train.py", "task=") >= {"task=deit", "task=lm", "task=mt"}
    assert completed("torchrun", "a/train.py", "training.epo") == {"training.epochs="}
    assert {"data=images", "data.root="} <= completed("multimax-train", "data")
    assert completed("python", "train.py", "reweight/output=multim") == {"reweight/output=multimax"}
    assert completed("python", "other.py", "task=") == set()
