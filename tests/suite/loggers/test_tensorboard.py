"""logger=tensorboard, read back by TensorBoard's own reader."""

import json

import pytest
from logged_runs import begin, log_steps, merged
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from multimax.suite import loggers
from multimax.suite.runs import Run


def add_sample(path, step):
    folder = path / "samples" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 3), "red").save(folder / "0.png")
    rows = [{"caption": f"class 1 at {step}", "picture": "0.png"}, {"caption": "a text"}]
    (folder / "samples.json").write_text(json.dumps({"rows": rows, "attention": "0.png"}))


def test_a_killed_and_resumed_run_shows_every_step_once(tmp_path):
    path = tmp_path / "run"
    folder = begin(path, "logger=tensorboard")
    follower = loggers.follow(Run(path), "tensorboard")
    follower.__enter__()
    log_steps(folder, 1, 5)
    add_sample(path, 3)
    follower.update()
    folder.run_lock.close()  # as if killed: nobody ends it
    folder = begin(path, "logger=tensorboard", step=3)
    with loggers.follow(Run(path), "tensorboard") as follower:
        log_steps(folder, 4, 8)
        add_sample(path, 6)
        follower.update()
        folder.finish({"top1": 1.0}, metric="top1", steps=8)
    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    rows = merged(Run(path).metrics)
    for key in ("train/loss", "val/top1", "epoch"):
        theirs = [(step, row[key]) for step, row in sorted(rows.items()) if key in row]
        assert [(event.step, event.value) for event in events.Scalars(key)] == [
            (step, pytest.approx(value)) for step, value in theirs
        ]
    assert [event.step for event in events.Images("samples/0")] == [3, 6]
    assert [event.step for event in events.Images("attention")] == [3, 6]
    texts = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("samples/0/text_summary")]
    assert texts == ["class 1 at 3", "class 1 at 6"]
