"""The loop itself, in this process, on a few digits: what it leaves behind when things happen to it."""

import json
import math
import os
import signal

import pytest
import torch

from multimax.composition import compose_configuration, typed
from multimax.engine import checkpoint
from multimax.engine.run_folder import RunFolder, read_lines, read_metrics
from multimax.engine.trainer import Trainer
from multimax.errors import Interrupted, UserError
from multimax.tasks import task_module

EVERYTHING = [
    "training.epochs=null", "training.steps=10", "training.log_every=3", "training.evaluate_every=4",
    "training.batch_size=32", "training.micro_batch_size=8", "training.ema_decay=0.9", "training.evaluate_ema=true",
    "model.drop_path=0.2", "model.depth=2", "data.mixup=0.8", "data.cutmix=1", "data.random_erasing=0.5",
]  # fmt: skip


def trainer(path, *overrides) -> Trainer:
    config = typed(compose_configuration([*EVERYTHING, *overrides]))
    return Trainer(task_module(config.task).create(config), RunFolder(path, config))


def numbers(path):
    """All that a run logged, but for its speed."""
    return [{k: v for k, v in r.items() if not k.endswith("per_second")} for r in read_metrics(path)]


def stop_at(running: Trainer, step: int) -> None:
    """Send this process a SIGTERM while ``running`` is in ``step``."""
    train_step = running.train_step

    def interrupted(batches):
        if running.step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        train_step(batches)

    running.train_step = interrupted


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    trainer(path).run()
    return path


@pytest.mark.parametrize("step", range(1, 10))
def test_stopped_at_any_step_and_resumed_it_is_the_same_run(whole, tmp_path, step):
    running = trainer(tmp_path)
    stop_at(running, step)
    with pytest.raises(Interrupted, match=f"stopped at step {step}"):
        running.run()
    running.folder.lock.close()
    trainer(tmp_path).run()
    assert numbers(tmp_path) == numbers(whole)
    for name in ("model", "ema"):
        ours, theirs = (p / "checkpoints" / "step-00000010" / f"{name}.safetensors" for p in (tmp_path, whole))
        assert ours.read_bytes() == theirs.read_bytes()
    best = [checkpoint.best(p / "checkpoints", higher_is_better=True).name for p in (tmp_path, whole)]
    assert best[0] == best[1]
    assert [start["step"] for start in read_lines(tmp_path / "starts.jsonl")] == [0, step]


def test_a_checkpoint_has_the_metric_of_its_own_step_or_none(tmp_path):
    trainer(tmp_path, "training.checkpoint_every=3", "training.keep_checkpoints=100").run()
    scores = {record["step"]: record["val/top1"] for record in read_metrics(tmp_path) if "val/top1" in record}
    assert sorted(scores) == [4, 8, 10]
    found = {}
    for path in checkpoint.newest_first(tmp_path / "checkpoints"):
        content = checkpoint.read_manifest(path)
        found[content["step"]] = content["metric"]
    assert {3, 6, 9, 10} <= set(found)
    assert all(metric == scores.get(step) for step, metric in found.items())
    summary = json.loads((tmp_path / "summary.json").read_text())
    best = checkpoint.best(tmp_path / "checkpoints", higher_is_better=True)
    assert checkpoint.read_manifest(best)["metric"] == summary["metrics"]["best_top1"] == max(scores.values())


def test_a_loss_that_is_not_finite_stops_the_run_and_no_checkpoint_has_it(tmp_path):
    running = trainer(tmp_path, "training.checkpoint_every=1", "training.log_every=100")
    train_step = running.train_step

    def broken(batches):
        train_step(batches)
        if running.step == 5:
            running.model.backbone.head.weight.data.fill_(math.inf)

    running.train_step = broken
    with pytest.raises(UserError, match="not finite by step 6"):
        running.run()
    newest, skipped = checkpoint.newest(tmp_path / "checkpoints")
    assert not skipped
    assert newest.name in ("step-00000004", "step-00000005")


def test_killed_between_the_last_checkpoint_and_the_summary_it_is_finished_without_another_line(whole, tmp_path):
    running = trainer(tmp_path)

    def killed():
        raise SystemExit

    running.finish = killed
    with pytest.raises(SystemExit):
        running.run()
    running.folder.lock.close()
    metrics = trainer(tmp_path).run()
    assert numbers(tmp_path) == numbers(whole)
    assert metrics["top1"] == json.loads((whole / "summary.json").read_text())["metrics"]["top1"]


def test_a_second_process_is_refused(tmp_path):
    running = trainer(tmp_path)
    running.folder.claim()
    with pytest.raises(UserError, match="trained by another process"):
        trainer(tmp_path).run()


def test_a_mistake_in_the_model_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="no file"):
        trainer(tmp_path / "run", "model.init_from=/nonexistent.pth")
    assert not (tmp_path / "run").exists()


def test_a_run_of_no_steps_scores_the_fresh_model(tmp_path):
    metrics = trainer(tmp_path, "training.steps=0").run()
    assert metrics["images"] == 360
    assert 0 <= metrics["top1"] <= 40


def test_bf16_trains(tmp_path):
    running = trainer(tmp_path, "training.precision=bf16", "training.steps=4")
    before = running.model.backbone.head.weight.clone()
    running.run()
    assert math.isfinite(read_metrics(tmp_path)[-1]["val/loss"])
    assert not torch.equal(before, running.model.backbone.head.weight)


@pytest.mark.slow
def test_compiled_it_learns_what_it_learns_eagerly(whole, tmp_path):
    trainer(tmp_path, "training.compile=true").run()
    for ours, theirs in zip(numbers(tmp_path), numbers(whole), strict=True):
        assert ours.get("train/loss") == pytest.approx(theirs.get("train/loss"), rel=1e-3)
