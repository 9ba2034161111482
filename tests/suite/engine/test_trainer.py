"""The training loop, in this process, on a few digits: what it leaves behind when it is disturbed."""

import json
import math
import os
import random
import signal

import pytest
import torch
from engine_runs import TEXT_RUNS, TRANSLATION, configure, make, numbers, stop_at, trainer, write_text

from multimax.suite.engine import checkpoint, pace
from multimax.suite.errors import Diverged, Interrupted, UserError
from multimax.suite.files import read_lines
from multimax.suite.runs import Run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    trainer(path).run()
    return path


@pytest.mark.parametrize("steps", [[5], range(1, 10)], ids=["once", "after every step"])
def test_stopped_at_any_step_and_resumed_it_is_the_same_run(whole, tmp_path, steps):
    """With another number of data workers at some of the starts."""
    for step in steps:
        running = trainer(tmp_path, f"data.num_workers={2 * (step % 3 == 2)}")
        stop_at(running, step)
        with pytest.raises(Interrupted, match=f"stopped at step {step}"):
            running.run()
        running.writer.run_lock.close()
    trainer(tmp_path).run()
    assert numbers(tmp_path) == numbers(whole)
    for name in ("model", "ema"):
        ours, theirs = (p / "checkpoints" / "step-00000010" / f"{name}.safetensors" for p in (tmp_path, whole))
        assert ours.read_bytes() == theirs.read_bytes()
    best = [checkpoint.best(p / "checkpoints", higher_is_better=True).name for p in (tmp_path, whole)]
    assert best[0] == best[1]
    assert [start["step"] for start in read_lines(tmp_path / "starts.jsonl")] == [0, *steps]


@pytest.mark.parametrize("name", TEXT_RUNS)
def test_each_task_stopped_again_and_again_at_random_steps_is_the_same_run(tmp_path, name):
    micro = f"training.micro_batch_size={30 if name == 'translation' else 2}"
    length = ["training.steps=40", "training.average_checkpoints=2"]
    config = configure(*TEXT_RUNS[name], *write_text(tmp_path), *length, micro)
    make(tmp_path / "whole", config).run()
    for step in sorted(random.Random(name).sample(range(1, 40), 6)):
        running = make(tmp_path / "broken", config)
        stop_at(running, step)
        with pytest.raises(Interrupted, match=f"stopped at step {step}"):
            running.run()
        running.writer.run_lock.close()
    make(tmp_path / "broken", config).run()
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "whole")
    last = "checkpoints/step-00000040/model.safetensors"
    assert (tmp_path / "broken" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()
    broken, whole = (Run(tmp_path / path) for path in ("broken", "whole"))
    assert broken.summary["metrics"] == whole.summary["metrics"]
    scored = [[path.name for path in checkpoint.newest_scored(run.checkpoints, 2)] for run in (broken, whole)]
    assert scored[0] == scored[1] == ["step-00000040", "step-00000032"]


def test_a_checkpoint_has_the_metric_of_its_own_step_or_none(tmp_path):
    trainer(tmp_path, "training.checkpoint_every=3", "training.keep_checkpoints=100").run()
    scores = {record["step"]: record["val/top1"] for record in Run(tmp_path).metrics if "val/top1" in record}
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


def test_weights_that_are_not_finite_stop_the_run_and_no_checkpoint_has_them(tmp_path):
    running = trainer(tmp_path, "training.checkpoint_every=1", "training.log_every=100")
    train_step = running.train_step

    def broken(batches):
        train_step(batches)
        if running.step == 5:
            running.model.backbone.head.weight.data.fill_(math.inf)

    running.train_step = broken
    with pytest.raises(Diverged, match="the weights are not finite by step 5"):
        running.run()
    newest, skipped = checkpoint.newest(tmp_path / "checkpoints")
    assert not skipped
    assert newest.name == "step-00000004"


@pytest.mark.parametrize("phase", ["restore", "validate"])
def test_a_signal_before_the_first_step_or_in_an_evaluation_stops_the_run_at_the_next_moment(tmp_path, phase):
    """It stops after step 1, or after the evaluation at step 4; each time there is one checkpoint."""
    running = trainer(tmp_path, "training.keep_checkpoints=100")
    work = getattr(running, phase)

    def signalled():
        os.kill(os.getpid(), signal.SIGUSR2)
        return work()

    setattr(running, phase, signalled)
    step = {"restore": 1, "validate": 4}[phase]
    with pytest.raises(Interrupted, match=f"stopped at step {step}") as stopped:
        running.run()
    assert stopped.value.out_of_time
    assert [p.name for p in checkpoint.newest_first(tmp_path / "checkpoints")] == [f"step-{step:08d}"]


@pytest.mark.parametrize("passes", [0, 1])
def test_a_signal_in_the_last_evaluation_or_the_final_test_stops_before_the_next_pass(tmp_path, passes):
    options = [*TRANSLATION, "training.epochs=null", "training.steps=2", "training.evaluate_every=2"]
    config = configure(*options, *write_text(tmp_path))
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    running = make(tmp_path / "run", config)
    tested = []
    test, evaluate = running.task.test, running.task.evaluate

    def signalled_test(*arguments):
        os.kill(os.getpid(), signal.SIGUSR2)
        tested.append(running.step)
        return test(*arguments)

    def signalled_evaluate(*arguments):
        if passes == 0:
            os.kill(os.getpid(), signal.SIGUSR2)
        return evaluate(*arguments)

    running.task.test, running.task.evaluate = signalled_test, signalled_evaluate
    with pytest.raises(Interrupted, match="stopped at step 2") as stopped:
        running.run()
    assert stopped.value.out_of_time
    assert tested == [2] * passes
    assert before == {number: signal.getsignal(number) for number in before}
    running.writer.run_lock.close()
    assert "test_bleu@best" in make(tmp_path / "run", config).run()


def test_killed_between_the_last_checkpoint_and_the_summary_it_is_finished_without_another_line(whole, tmp_path):
    running = trainer(tmp_path)

    def killed():
        raise SystemExit

    running.finish = killed
    with pytest.raises(SystemExit):
        running.run()
    running.writer.run_lock.close()
    metrics = trainer(tmp_path).run()
    assert numbers(tmp_path) == numbers(whole)
    assert metrics["top1"] == json.loads((whole / "summary.json").read_text())["metrics"]["top1"]


def test_a_second_process_is_refused(tmp_path):
    running = trainer(tmp_path)
    running.writer.open(dict)
    with pytest.raises(UserError, match="trained by another process"):
        trainer(tmp_path).run()


def test_a_mistake_in_the_model_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="no file"):
        trainer(tmp_path / "run", "init_from=/nonexistent.pth")
    assert not (tmp_path / "run").exists()


def test_a_run_of_no_steps_scores_the_fresh_model(tmp_path):
    metrics = trainer(tmp_path, "training.steps=0").run()
    assert metrics["images"] == 360
    assert 0 <= metrics["top1"] <= 40


def test_bf16_trains(tmp_path):
    running = trainer(tmp_path, "training.precision=bf16", "training.steps=4")
    before = running.model.backbone.head.weight.clone()
    running.run()
    assert math.isfinite(Run(tmp_path).metrics[-1]["val/loss"])
    assert not torch.equal(before, running.model.backbone.head.weight)


@pytest.mark.slow
def test_compiled_it_learns_what_it_learns_eagerly(whole, tmp_path):
    trainer(tmp_path, "training.compile=true").run()
    ours, theirs = ([row["train/loss"] for row in numbers(path) if "train/loss" in row] for path in (tmp_path, whole))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_logged_step_says_the_present_pace_the_wait_for_data_and_the_time_to_the_end(monkeypatch):
    now = iter([0.0, 0.0, 3.0, 4.0, 24.0, 34.0])  # start; start and end of the wait; start and end of the pause; lap
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(now, 34.0))
    timed = pace.Pace(100.0)
    assert timed.next(iter(["batch"])) == "batch"
    with timed.paused():
        pass
    assert timed.lap(240.0, "images") == {"images_per_second_now": 10.0, "data_wait": 3 / 14}
    assert timed.waited == 0


def test_the_time_to_the_end_is_logged_and_runs_out(whole):
    left = [record["time/seconds_left"] for record in Run(whole).metrics if "time/seconds_left" in record]
    assert left[0] > 0
    assert left[-1] == 0
