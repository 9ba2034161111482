"""train.py and evaluate.py as a person uses them: as commands, with mistakes, with Ctrl-C."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra

from multimax.suite import cli
from multimax.suite.composition import compose_configuration, typed
from multimax.suite.engine.diagnose import main as diagnose
from multimax.suite.planned.__main__ import main as planned
from multimax.suite.report.__main__ import main as report
from multimax.suite.runs import Run

SMALL = ["training.epochs=3", "training.evaluate_every=11", "training.log_every=1"]


def command(root: Path, script: str, *arguments: str, cwd: Path | None = None, **environment: str):
    return subprocess.run(
        [sys.executable, str(root / script), *arguments],
        cwd=cwd or root,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def test_train_then_evaluate_gives_the_same_number(root, tmp_path):
    run = tmp_path / "run"
    done = command(root, "train.py", f"run_dir={run}", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "DEMO" in done.stdout
    assert "scale=paper" in done.stdout
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters"]["attention"] == 32  # four layers with eight each
    assert summary["parameters"]["output"] == 8

    scored = command(root, "evaluate.py", str(run), "--checkpoint", "last", "data.num_workers=1")
    metrics = json.loads(scored.stdout)
    for name in ("top1", "loss"):
        assert metrics[name] == pytest.approx(summary["metrics"][name], abs=1e-9)

    again = command(root, "train.py", f"run_dir={run}", *SMALL)
    assert again.returncode == 0
    assert "is finished" in again.stdout

    other = command(root, "train.py", f"run_dir={run}", *SMALL, "seed=5")
    assert other.returncode == 2
    assert "seed was 0, now 5" in other.stderr


def test_ctrl_c_and_the_same_command_again_is_the_uninterrupted_run(root, tmp_path):
    def losses(run):
        return [(r["step"], r.get("train/loss"), r.get("val/top1"), r.get("val/loss")) for r in Run(run).metrics]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = ["training.epochs=4", "training.evaluate_every=20", "training.log_every=7", "data.num_workers=1"]
    assert command(root, "train.py", f"run_dir={whole}", *arguments).returncode == 0

    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, str(root / "train.py"), f"run_dir={broken}", *arguments],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        before = len(losses(broken))
        while process.poll() is None and len(losses(broken)) < before + 2:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == 130, errors
        assert re.search(r"stopped at step \d+; the same command continues", errors)
    assert losses(broken) == losses(whole)
    assert (
        json.loads((broken / "summary.json").read_text())["metrics"]
        == json.loads((whole / "summary.json").read_text())["metrics"]
    )


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "generate.py"])
def test_ctrl_c_during_the_imports_is_no_traceback(root, script):
    process = subprocess.Popen([sys.executable, str(root / script), "x"], stderr=subprocess.PIPE, text=True)
    while b"libtorch" not in Path(f"/proc/{process.pid}/maps").read_bytes():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert process.returncode in (-signal.SIGINT, 130)


def test_the_readme_s_function_trains_without_touching_the_project(root, tmp_path):
    readme = (root / "README.md").read_text()
    (module,) = re.findall(r"```python\n(# my_functions\.py\n.*?)```", readme, re.DOTALL)
    (arguments,) = re.findall(r"python train\.py (plugins=\[my_functions\] .*)", readme)
    (tmp_path / "my_functions.py").write_text(module)
    run = tmp_path / "run"
    words = shlex.split(arguments)
    done = command(root, "train.py", f"run_dir={run}", *words, "training.epochs=1", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "name: scaled\n    scale: 2.0" in (run / "config.yaml").read_text()
    scored = command(root, "evaluate.py", str(run), PYTHONPATH=str(tmp_path))
    assert json.loads(scored.stdout)["top1"] == json.loads((run / "summary.json").read_text())["metrics"]["top1"]
    lost = command(root, "evaluate.py", str(run))
    assert lost.returncode == 2
    assert "there is no module my_functions" in lost.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sead=1"], "seed"),
        (["traning.epochs=1"], "training.epochs"),
        (["training.epohcs=1"], "training.epochs"),
        (["+training.epohcs=1"], "training.epochs"),
        (["reweight=multimx"], "multimax"),
        (["reweight.attention.oder=1"], "order"),
        (["reweight=softmax", "reweight.attention.order=1"], "no such option"),
        (["task=diet"], "deit"),
        (["scale=huge"], "paper"),
        (["training.epochs=soon"], "training.epochs"),
        (["scale=small", "reweight=multimax", "data.root=/nonexistent"], "/nonexistent is not a folder"),
        (["training.device=cuda"], "no CUDA device"),
        (["plugins=[no_such_module]"], "no_such_module"),
        (["seed"], "seed"),
        (["--config-dir", "/nonexistent"], "--config-dir /nonexistent is not a folder"),
        (["--config-name", "other"], "--config-name other: there is none"),
        (["--resolve"], "--resolve flag"),
        (["--experimental-rerun", "x"], "x does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys, arguments, expected):
    if "training.device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    line = one_line(cli.train, ["train.py", *arguments], tmp_path, monkeypatch, capsys)
    assert expected in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "nowhere is not a run folder"),
        (["run"], "has no checkpoint last; there: none"),
        (["run", "--checkpoint", "step-7"], "has no checkpoint step-7"),
        (["run", "data.rot=x"], "data.root"),
    ],
)
def test_evaluate_names_what_is_missing(tmp_path, monkeypatch, capsys, arguments, expected):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(asdict(typed(compose_configuration([])))))
    assert expected in one_line(cli.evaluate, ["evaluate.py", *arguments], tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (cli.generate, ["run", "--tokens", "-1"]),
        (cli.generate, ["run", "--seed", str(2**70)]),
        (report, ["serve", "runs", "--port", "70000"]),
        (diagnose, ["run", "--step", "0"]),
        (planned, ["confirm", "entry", "--jobs", "0"]),
    ],
)
def test_a_number_out_of_its_range_is_refused(tmp_path, monkeypatch, capsys, main, arguments):
    line = one_line(main, ["command", *arguments], tmp_path, monkeypatch, capsys)
    assert f"argument {arguments[-2]}: {arguments[-1]} is no whole number from " in line


def one_line(main, argv, folder, monkeypatch, capsys) -> str:
    """The only line that a command with a mistake prints on its standard error."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(cli, "failures", [])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]
