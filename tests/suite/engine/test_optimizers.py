"""Optimisers by name: what they leave to AdamW, and that a resumed run equals the uninterrupted one."""

import math

import pytest
import torch
from engine_runs import configure, numbers, stop_at, trainer

import multimax
from multimax.suite.config import Optimizer
from multimax.suite.engine import checkpoint
from multimax.suite.engine.optimizers import create_optimizer, inner_matrices
from multimax.suite.errors import Interrupted, UserError
from multimax.suite.tasks import task_module

CHOSEN = {
    "sgd": ["optimizer=sgd", "optimizer.learning_rate=0.05"],
    "muon": ["optimizer=muon"],
    "schedule_free_adamw": ["optimizer=schedule_free_adamw", "schedule=constant"],
}


def chosen(name: str) -> list[str]:
    if name == "schedule_free_adamw":
        pytest.importorskip("schedulefree", reason="needs schedulefree: pip install -e '.[schedulefree]'")
    return [*CHOSEN[name], "training.steps=6", "training.ema_decay=null", "training.evaluate_ema=false"]


@pytest.mark.parametrize("name", CHOSEN)
def test_a_run_stopped_between_evaluations_is_the_uninterrupted_one(tmp_path, name):
    overrides = chosen(name)
    whole = trainer(tmp_path / "whole", *overrides)
    first = [parameter.detach().clone() for parameter in whole.model.parameters()]
    whole.run()
    assert all(not torch.equal(p, before) for p, before in zip(whole.model.parameters(), first, strict=True))
    broken = trainer(tmp_path / "broken", *overrides)
    stop_at(broken, 3)
    with pytest.raises(Interrupted):
        broken.run()
    broken.writer.run_lock.close()
    resumed = trainer(tmp_path / "broken", *overrides)
    resumed.run()
    assert resumed.step == 6
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "whole")


def test_a_schedule_free_checkpoint_holds_the_weights_that_were_scored(tmp_path):
    running = trainer(tmp_path / "run", *chosen("schedule_free_adamw"))
    metrics = running.run()
    last, _ = checkpoint.newest(tmp_path / "run" / "checkpoints")
    trained = [parameter.detach().clone() for parameter in running.model.parameters()]
    checkpoint.load_weights(last, running.model, "model")
    assert any(not torch.equal(p, other) for p, other in zip(running.model.parameters(), trained, strict=True))
    assert running.score(running.task.evaluate, running.model)["loss"] == metrics["loss"]


def test_a_schedule_free_run_takes_no_decay(tmp_path):
    with pytest.raises(UserError, match=r"schedule\.name=constant"):
        configure("optimizer=schedule_free_adamw")


@pytest.mark.parametrize("task", ["deit", "lm", "mt"])
def test_muon_has_the_matrices_inside_alone(task):
    config = configure(f"task={task}", "reweight=multimax", "optimizer=muon", "optimizer.weight_decay=0.1")
    model = task_module(task).create(config).build_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inside = {names[id(parameter)] for parameter in inner_matrices(model)}
    assert inside
    for name in inside:
        assert name.endswith(".weight")
        assert not any(part in name for part in ("embed", "head", "reweight", "output", "tables"))
    optimizer = create_optimizer(model, config.optimizer)
    of_muon = {id(p) for group in optimizer.parts[0].param_groups for p in group["params"]}
    assert {names[one] for one in of_muon} == inside
    assert not any(multimax.is_reweighting(p) for group in optimizer.parts[0].param_groups for p in group["params"])
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(names)
    decays = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    expected = multimax.parameter_groups(model, 1.0)
    assert decays == {id(p) for group in expected if group["weight_decay"] for p in group["params"]}


def test_muon_s_step_has_the_size_of_adamw_s():
    model = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False))
    optimizer = create_optimizer(model, Optimizer(learning_rate=0.1, name="muon"))
    before = model[0].weight.detach().clone()
    model(torch.randn(128, 64)).square().sum().backward()
    optimizer.step()
    assert (model[0].weight - before).square().mean().sqrt().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("name", [*CHOSEN, "adamw"])
def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path, name):
    overrides = chosen(name) if name in CHOSEN else ["training.steps=6"]
    running = trainer(tmp_path / "run", *overrides)
    batches = running.task.train_batches(0, running.shard)
    running.train_step(next(batches))
    before = [parameter.detach().clone() for parameter in running.model.parameters()]
    loss = running.task.loss
    running.task.loss = lambda *arguments: loss(*arguments) * math.nan
    running.train_step(next(batches))
    assert all(torch.equal(p, other) for p, other in zip(running.model.parameters(), before, strict=True))
    assert running.guard.in_a_row() == 1
