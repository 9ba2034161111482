"""Steps with a NaN or infinite loss or gradient are skipped and counted; after a few in a row the run ends."""

import json
import math

import pytest
import torch
from engine_runs import numbers, stop_at, trainer

from multimax.suite.engine import checkpoint, nonfinite
from multimax.suite.errors import Diverged, Interrupted
from multimax.suite.runs import Run

FEW = [
    "training.evaluate_ema=false",
    "training.micro_batch_size=null",
    "model.depth=2",
    "training.log_every=1",
    "training.evaluate_every=10",
    "training.keep_checkpoints=100",
]


def spoil(running, steps, value=math.inf):
    """Add ``value`` to the loss of these steps, which are counted from 1."""
    loss = running.task.loss

    def spoiled(model, batch, device):
        return loss(model, batch, device) + (value if running.step + 1 in steps else 0.0)

    running.task.loss = spoiled
    return running


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_bad_step_changes_nothing_and_is_counted(tmp_path, value):
    running = spoil(trainer(tmp_path / "run", *FEW, "training.checkpoint_every=1"), {1, 4, 7, 8}, value)
    running.run()
    folder = tmp_path / "run" / "checkpoints"
    weights = {p.name: (p / "model.safetensors").read_bytes() for p in checkpoint.newest_first(folder)}
    same = [step for step in range(2, 11) if weights[f"step-{step:08d}"] == weights[f"step-{step - 1:08d}"]]
    assert same == [4, 7, 8]
    moments = checkpoint.load_training(folder / "step-00000001")["optimizer"]["state"][0]
    assert moments["step"] == 0
    assert not moments["exp_avg"].any()
    records = {r["step"]: r for r in Run(tmp_path / "run").metrics if "train/learning_rate" in r}
    assert [step for step, r in records.items() if "train/loss" not in r] == [1, 4, 7, 8]
    assert [r.get("train/skipped_steps") for r in records.values()] == [1, 1, 1, 2, 2, 2, 3, 4, 4, 4]
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_steps"] == 4


def test_interrupted_among_bad_steps_it_is_the_same_run(tmp_path):
    bad = {3, 4, 6}
    spoil(trainer(tmp_path / "whole", "training.log_every=4"), bad).run()
    for step in (3, 4, 5, 6, None):
        running = spoil(trainer(tmp_path / "broken", "training.log_every=4"), bad)
        if step is None:
            running.run()
        else:
            stop_at(running, step)
            with pytest.raises(Interrupted):
                running.run()
            running.writer.run_lock.close()
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "whole")


def test_after_a_few_the_run_stops_and_says_where_and_leaves_the_weights_from_before(tmp_path):
    running = spoil(trainer(tmp_path / "run", *FEW), {5, 6, 7, 8, 9})
    with pytest.raises(Diverged, match=r"the loss or the gradient is not finite by step 7 \(3 skipped in a row\)"):
        running.run()
    newest, skipped = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert (newest.name, skipped) == ("step-00000007", {})
    before = trainer(tmp_path / "before", *FEW)
    stop_at(before, 4)
    with pytest.raises(Interrupted):
        before.run()
    for path, reference in ((newest, tmp_path / "before" / "checkpoints" / "step-00000004"),):
        assert (path / "model.safetensors").read_bytes() == (reference / "model.safetensors").read_bytes()

    running.writer.run_lock.close()
    again = spoil(trainer(tmp_path / "run", *FEW), {8})
    with pytest.raises(Diverged, match="step 8"):  # the fourth in a row
        again.run()
    again.writer.run_lock.close()
    assert trainer(tmp_path / "run", *FEW).run()["images"] == 360


def test_a_limit_of_one_stops_at_once(tmp_path):
    with pytest.raises(Diverged, match="by step 2 "):
        spoil(trainer(tmp_path, "training.max_skipped_steps=1"), {2}).run()


def test_an_infinite_loss_makes_every_gradient_nan():
    weight = torch.ones(3, requires_grad=True)
    nonfinite.poisoned(weight.sum() + math.inf, 0.5).backward()
    assert weight.grad.isnan().all()
    weight.grad = None
    nonfinite.poisoned(weight.sum(), 0.5).backward()
    assert torch.equal(weight.grad, torch.full((3,), 0.5))


def test_weights_that_blew_up_cost_no_checkpoint_however_often_the_command_is_repeated(tmp_path):
    """The steps up to the fourth are sound. Then the weights become huge, as after too high a learning rate."""
    options = [*FEW[:-1], "training.checkpoint_every=1", "training.keep_checkpoints=2"]
    folders = []
    for _ in range(3):
        running = trainer(tmp_path / "run", *options)
        train_step = running.train_step

        def blow_up(batches, running=running, train_step=train_step):
            train_step(batches)
            if running.step == 4:
                running.model.backbone.head.weight.data.mul_(1e38)

        running.train_step = blow_up
        with pytest.raises(Diverged, match="In a new run, lower optimizer"):
            running.run()
        running.writer.run_lock.close()
        folders.append(
            {
                p.name: (p / "model.safetensors").read_bytes()
                for p in checkpoint.newest_first(running.writer.run.checkpoints)
            }
        )
    assert {"step-00000003", "step-00000004"} <= folders[0].keys()
    assert folders[0] == folders[1] == folders[2]


def test_a_huge_learning_rate_leaves_the_same_checkpoints_at_every_start(tmp_path):
    options = [*FEW[:-1], "training.keep_checkpoints=2", "optimizer.learning_rate=1e30", "optimizer.clip_norm=null"]
    folders = []
    for _ in range(3):
        running = trainer(tmp_path / "run", *options)
        with pytest.raises(Diverged):
            running.run()
        running.writer.run_lock.close()
        folders.append({p.name: p.stat().st_mtime_ns for p in checkpoint.newest_first(running.writer.run.checkpoints)})
    assert folders[0] == folders[1] == folders[2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_metric_that_is_not_finite_is_left_out_and_never_the_best(tmp_path, value):
    running = trainer(tmp_path / "run", *FEW[:-2], "training.evaluate_every=2", "training.keep_checkpoints=100")
    metrics = running.task.metrics
    running.task.metrics = lambda sums: metrics(sums) | ({"top1": value} if running.step == 2 else {})
    result = running.run()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    scores = {r["step"]: r.get("val/top1") for r in records if "val/loss" in r}
    assert [step for step, score in scores.items() if score is None] == [2]
    assert result["best_top1"] == max(score for score in scores.values() if score is not None)
    best = checkpoint.best(tmp_path / "run" / "checkpoints", higher_is_better=True)
    assert checkpoint.read_manifest(best)["metric"] == result["best_top1"]


def test_a_run_whose_last_metric_is_not_finite_has_no_result(tmp_path):
    for _ in range(2):
        running = trainer(tmp_path / "run", *FEW)
        metrics = running.task.metrics
        running.task.metrics = lambda sums, metrics=metrics: metrics(sums) | {"top1": math.nan}
        with pytest.raises(Diverged, match="top1 of the last step is not finite"):
            running.run()
        running.writer.run_lock.close()
    assert not (tmp_path / "run" / "summary.json").exists()
