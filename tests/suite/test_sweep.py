"""Sweeps without a cluster: what would be submitted, its cost, and the same runs, run locally."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from hydra.core.global_hydra import GlobalHydra

from multimax.suite import cli
from multimax.suite.composition import compose_configuration, typed
from multimax.suite.errors import UserError
from multimax.suite.files import read_lines
from multimax.suite.identity import run_name
from multimax.suite.runs import Run

pytest.importorskip("submitit", reason="needs submitit: pip install -e '.[slurm]'")

SMALL = ["training.epochs=1", "hydra.launcher.gpus_per_node=null"]


def sweep(folder, monkeypatch, *arguments: str) -> None:
    """Run ``train.py -m`` in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", *SMALL, *arguments])
    monkeypatch.setattr(cli, "failures", [])
    GlobalHydra.instance().clear()
    cli.train.__wrapped__()


def test_a_dry_run_says_what_it_would_submit_and_submits_nothing(tmp_path, monkeypatch, capsys):
    what = ["scale=demo,small", "task=deit", "reweight=softmax,multimax", "seed=0"]
    sweep(tmp_path, monkeypatch, "hydra/launcher=slurm", "hydra.launcher.dry_run=true", *what)
    said = capsys.readouterr().out
    assert said.count("2 run(s), each with") == 2, "an array for each scale"
    assert "0.5 h at a time" in said
    assert "4 h at a time" in said
    assert said.count("  runs/deit-") == 4
    assert said.count("not measured: 2 run(s)") == 2
    assert not (tmp_path / "runs" / "sweeps").exists()


def test_local_runs_are_the_plain_ones_and_give_a_measure_of_the_cost(root, tmp_path, monkeypatch, capsys):
    what = ["task=deit", "reweight=softmax", "seed=0,1"]
    sweep(tmp_path, monkeypatch, "hydra/launcher=local", "hydra.launcher.parallel=2", *what)
    (frozen,) = tmp_path.glob("runs/sweeps/*")
    assert (frozen / "code" / "multimax" / "REVISION").is_file()
    assert len([*frozen.glob("configs/*.yaml")]) == 2

    (run,) = tmp_path.glob("runs/deit-*-seed1-*")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(
        sys, "argv", ["train.py", *SMALL[:1], "reweight=softmax", "seed=1", f"run_dir={tmp_path}/plain"]
    )
    GlobalHydra.instance().clear()
    cli.train.__wrapped__()

    def losses(folder):
        return [(record["step"], record.get("train/loss"), record.get("val/loss")) for record in Run(folder).metrics]

    assert losses(run) == losses(tmp_path / "plain")

    capsys.readouterr()
    sweep(tmp_path, monkeypatch, "hydra/launcher=slurm", "hydra.launcher.dry_run=true", *what[:2], "seed=0,1,2,3")
    said = capsys.readouterr().out
    assert "2 of 4 runs are finished already" in said
    assert said.count("  runs/deit-") == 2
    seconds = [
        json.loads(path.read_text())["throughput"]["seconds"] for path in tmp_path.glob("runs/deit-*/summary.json")
    ]
    assert f"measured: {sum(seconds) / 3600:.3g} process hours for 2 of the 2 runs" in said

    (command,) = {start["command"] for start in Run(run).starts}
    assert shlex.split(command)[:2] == ["python", "train.py"]
    assert {"seed=1", "reweight=softmax", "training.epochs=1"} <= {*shlex.split(command)[2:]}
    (run / "data.json").write_text(json.dumps(Run(run).data | {"classes": ["cat", "dog"]}))
    with pytest.raises(UserError, match=f"{run.name} is a run of other data .classes: "):
        sweep(tmp_path, monkeypatch, "hydra/launcher=slurm", "hydra.launcher.dry_run=true", *what)


def test_a_run_that_fails_here_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    (tmp_path / "picky.py").write_text(
        "import torch\n"
        "from multimax import reweight\n"
        "@reweight.register('picky', can_be_zero=False)\n"
        "def picky(scores, mask=None):\n"
        "    if torch.initial_seed() and not torch.is_grad_enabled():\n"
        "        raise RuntimeError('not in an evaluation')\n"
        "    return reweight.softmax(scores, mask=mask)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match=r"picky-seed0-\w+ did not finish: see .*_log.out"):
        sweep(tmp_path, monkeypatch, "hydra/launcher=local", "plugins=[picky]", "reweight=picky,softmax")
    assert [path.parent.name.split("-")[2] for path in tmp_path.glob("runs/*/summary.json")] == ["softmax"]
    (log,) = [path for path in tmp_path.glob("runs/sweeps/*/jobs/*.out") if "not in an evaluation" in path.read_text()]
    assert str(log) in capsys.readouterr().out


def test_ctrl_c_stops_local_runs_with_checkpoints(root, tmp_path):
    long = ["training.epochs=1000", "training.log_every=1", "training.checkpoint_every=100000"]
    process = subprocess.Popen(
        [
            sys.executable,
            str(root / "train.py"),
            "-m",
            "hydra/launcher=local",
            "hydra.launcher.tasks_per_node=2",
            *long,
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # It would inherit an ignored SIGINT where the tests are a background job.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while process.poll() is None and not any(Run(run).metrics for run in tmp_path.glob("runs/deit-*")):
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        errors = process.communicate(timeout=120)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    logs = [log.read_text() for log in tmp_path.glob("runs/sweeps/*/jobs/*_log.*")]
    assert process.returncode == 130, "\n".join([errors, *logs])
    (run,) = tmp_path.glob("runs/deit-*")
    last = Run(run).metrics[-1]["step"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{last:08d}"]
    assert len(read_lines(run / "starts.jsonl")) == 1
    (log,) = tmp_path.glob("runs/sweeps/*/jobs/*_0_log.out")
    assert "on 2 x cpu" in log.read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["hydra/launcher=slurm"], "there is no Slurm here"),
        (["hydra/launcher=slurm", "hydra.launcher.tasks_per_node=129"], "is less than the 129 processes"),
        (["hydra/launcher=local", "run_dir=here", "seed=0,1"], "the sweep has here more than once"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused_before_anything_is_written(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=expected):
        sweep(tmp_path, monkeypatch, *arguments)
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("runs", "multirun.yaml")]


@pytest.mark.parametrize(
    ("claims", "keys", "said"),
    [
        ("iwslt14-*", ["task=mt", "scale=paper"], "1 process(es), 1 GPU(s), 32 GB per node, 24 h at"),
        ("imagenet100-*", ["experiment=imagenet100_deit_s"], "1 process(es), 1 GPU(s), 64 GB per node, 8 h at"),
    ],
)
def test_the_paper_s_sweep_has_a_dry_run_with_what_each_experiment_needs(root, tmp_path, claims, keys, said):
    done = subprocess.run(
        [sys.executable, root / "scripts" / "sweep.py", "--dry-run", f"claims={claims}", "seed=0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"2 run(s), each with 1 node(s) x {said}" in done.stdout
    for function in ("softmax", "multimax"):
        config = typed(compose_configuration([*keys, f"reweight={function}"]))
        assert run_name(config) in done.stdout
