"""python -m multimax.suite.figures oversmoothing measures each checkpoint of a run with its own weights."""

import csv
import json

import pytest

from multimax.suite import cli
from multimax.suite.errors import UserError
from multimax.suite.figures.oversmoothing_command import oversmoothing


def test_the_command_measures_a_run_over_training(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    steps = ["training.epochs=null", "training.steps=2", "training.evaluate_every=1", "schedule.warmup_epochs=null"]
    small = ["model.depth=2", "model.embed_dim=16", "training.keep_checkpoints=9", f"run_dir={run}"]
    monkeypatch.setattr("sys.argv", ["train", "reweight=multimax", *steps, *small])
    cli.train()
    oversmoothing([str(run), "--over-training"])
    assert str(run / "analysis" / "oversmoothing.csv") in capsys.readouterr().out
    kept = json.loads((run / "analysis" / "oversmoothing.json").read_text())["measured"]
    assert [at["step"] for at in kept] == [0, 1, 2]
    assert all(len(at[name]) == 2 for at in kept for name in ("patch_similarity", "mad"))
    assert len({tuple(at["patch_similarity"]) for at in kept}) == 3, "each step has its own weights"
    rows = list(csv.DictReader((run / "analysis" / "oversmoothing.csv").open()))
    assert [float(row["MAD"]) for row in rows] == pytest.approx([mad for at in kept for mad in at["mad"]], abs=1e-5)

    oversmoothing([str(run), "--checkpoint", "step-00000001"])
    again = json.loads((run / "analysis" / "oversmoothing.json").read_text())["measured"]
    assert again == kept[1:2]
    with pytest.raises(UserError, match="--ema"):
        oversmoothing([str(run), "--ema"])
