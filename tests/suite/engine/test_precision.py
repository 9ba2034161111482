"""float16 with its loss scale, which a CPU can compute too."""

import pytest
import torch
from engine_runs import TEXT_RUNS, configure, make, numbers, stop_at, trainer, write_text

from multimax.suite.cli import train_composed
from multimax.suite.composition import compose_configuration
from multimax.suite.engine import nonfinite
from multimax.suite.engine.precision import LossScale
from multimax.suite.errors import Interrupted, UserError
from multimax.suite.runs import Run

CPU = torch.device("cpu")
TASKS = ["image_classification", *TEXT_RUNS]


def test_an_overflow_halves_the_scale_and_counts_only_where_no_scale_is_left():
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer = torch.optim.AdamW([weight], fused=True)
    guard = nonfinite.Guard(optimizer, CPU, 3, LossScale("fp16", CPU, first=4.0, patience=2))
    scales = []
    for norm in (1.0, torch.inf, 1.0, 1.0, torch.nan, torch.inf, torch.inf, torch.inf, torch.inf):
        guard.step(torch.tensor(norm))
        scales.append(float(guard.scale.value))
    assert scales == [4.0, 2.0, 2.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    assert guard.counts.tolist() == [3, 3]
    assert guard.exhausted()


def test_other_formats_have_no_scale():
    scale = LossScale("bf16", CPU)
    scale.restore(8.0, 3)
    assert scale.update(torch.tensor(False))
    assert scale.value == 1.0


def test_a_float16_run_learns_what_a_float32_one_does_and_resumes_with_its_scale(tmp_path):
    options = ["training.steps=8", "data.mixup=0", "data.cutmix=0"]
    for precision in ("fp32", "fp16"):
        trainer(tmp_path / precision, *options, f"training.precision={precision}").run()
    single, half = (Run(tmp_path / precision).final for precision in ("fp32", "fp16"))
    assert half["loss"] == pytest.approx(single["loss"], rel=0.01)
    whole = trainer(tmp_path / "whole", *options, "training.precision=fp16")
    whole.loss_scale.value.fill_(2.0**30)  # overflows, so the first steps are left out
    stop_at(whole, 3)
    with pytest.raises(Interrupted):
        whole.run()
    scale = float(whole.loss_scale.value)
    assert scale == 2.0**27
    assert whole.progress.skipped_steps == 0
    whole.writer.run_lock.close()
    resumed = trainer(tmp_path / "whole", *options, "training.precision=fp16")
    resumed.restore()
    assert float(resumed.loss_scale.value) == scale


@pytest.mark.parametrize("name", TASKS)
def test_recomputed_activations_change_nothing(tmp_path, name):
    options = [] if name == "image_classification" else [*TEXT_RUNS[name], *write_text(tmp_path)]
    options += ["training.epochs=null", "training.steps=3", "training.log_every=1"]
    for run, more in (("kept", []), ("recomputed", ["training.activation_checkpointing=true"])):
        make(tmp_path / run, configure(*options, *more)).run()
    assert numbers(tmp_path / "recomputed") == numbers(tmp_path / "kept")


def test_the_paper_s_scale_does_not_start_on_a_cpu_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    overrides = ["task=deit", "scale=paper", f"run_dir={tmp_path / 'run'}", f"data.root={tmp_path / 'absent'}"]
    with pytest.raises(UserError, match=r"months without a GPU.*training.device=cpu"):
        train_composed(compose_configuration(overrides), overrides, "")
    with pytest.raises(UserError, match=r"data.root"):
        train_composed(compose_configuration([*overrides, "training.device=cpu"]), overrides, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["transformer_xl", "transformer_lm"])
def test_a_language_model_is_tested_on_the_test_split_with_its_last_and_its_best_weights(tmp_path, name):
    options = [*TEXT_RUNS[name], *write_text(tmp_path), "training.epochs=null", "training.steps=16"]
    running = make(tmp_path / "run", configure(*options))
    found = running.run()
    metric = running.task.metric
    asked = make(tmp_path / "other", configure(*options, "data.eval_split=test"))
    asked.model.load_state_dict(running.model.state_dict())  # the best weights, which were tested last
    expected = asked.score(asked.task.evaluate, asked.model)
    for key in (metric, "loss", "tokens", "unigram_ppl"):
        assert found[f"test_{key}@best"] == pytest.approx(expected[key])
    assert found[f"test_{metric}@last"] != found[metric]
    assert asked.task.test(asked.model, CPU, asked.shard) is None
