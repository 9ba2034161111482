"""What is shown of a step that was not finite: the scores of every reweighting, every gradient, the examples."""

import json
import math
import sys

import pytest
import torch
from engine_runs import TEXT_RUNS, configure, make, trainer, write_text
from function_kinds import KINDS
from torch import nn

from multimax import reweight
from multimax.attention import attention
from multimax.suite.engine import diagnose
from multimax.suite.errors import Diverged, UserError


class Attend(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.reweight = reweight.create(name)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, query, key, mask):
        return attention(query * self.scale, key, key, self.reweight, mask)


class Two(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.first, self.second = Attend("softmax"), Attend(name)
        self.output = reweight.create("softmax")

    def forward(self, query, key, mask, targets):
        hidden = self.second(self.first(query, key, mask), key, mask)
        return self.output.loss(hidden.flatten(0, -2), targets, reduction="sum")


@pytest.mark.parametrize("name", KINDS)
def test_largest_scores_are_of_live_entries_whatever_fast_path_there_is(name):
    torch.manual_seed(0)
    model, query, key = Two(name), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    mask = torch.arange(7) < 5
    key[..., 5:, :] = 1e4
    targets = torch.zeros(30, dtype=torch.long)
    expected = model(query, key, mask, targets)
    with diagnose.largest_scores(model) as found:
        model(query, key, mask, targets).backward()
    first = query @ key.mT / 8**0.5
    hidden = model.first(query, key, mask)
    second = hidden @ key.mT / 8**0.5
    final = model.second(hidden, key, mask)
    for site, scores in (("first", first[..., :5]), ("second", second[..., :5]), ("output", final)):
        assert found[site].item() == pytest.approx(scores.abs().max().item(), rel=1e-5), site
    (gradient,) = torch.autograd.grad(expected, model.first.scale)
    assert diagnose.largest_gradients(model)["first"].item() == pytest.approx(gradient.abs().item(), rel=1e-4)


def spoilt(running, steps):
    """Make a weight NaN in these steps, which are counted from 1."""
    train_step = running.train_step

    def spoil(batches):
        weight = running.model.backbone.head.weight
        sound = weight.detach().clone()
        if running.step + 1 in steps:
            weight.data[0, 0] = math.nan
        train_step(batches)
        weight.data.copy_(sound) if running.step in steps else None

    running.train_step = spoil
    return running


@pytest.mark.parametrize(("bad", "saved", "repeated"), [((5, 6, 7), 4, 5), ((6, 7, 8), 8, 8)])
def test_a_step_at_which_a_run_stopped_is_repeated_by_the_command_it_names(
    tmp_path, bad, saved, repeated, monkeypatch, capsys
):
    running = spoilt(trainer(tmp_path / "run", "training.micro_batch_size=null"), bad)
    with pytest.raises(
        Diverged, match=rf"by step {bad[-1]} .* python -m multimax.suite.engine.diagnose {tmp_path}/run "
    ):
        running.run()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["diagnose", str(tmp_path / "run")])
    diagnose.main()
    shown = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (shown["checkpoint"], shown["step"]) == (f"step-{saved:08d}", repeated)
    assert shown["examples"] == running.task.examples(repeated - 1)
    assert {"output", "backbone.blocks.1.attn"} <= shown["largest scores"].keys()
    assert "backbone.head" in shown["largest gradients"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize("name", TEXT_RUNS)
def test_the_loss_is_that_of_the_step_whatever_the_task(tmp_path, name):
    """The batch, the dropout and a model's memory are those of the step, so the loss is the one that the run logged."""
    config = configure(*TEXT_RUNS[name], *write_text(tmp_path), "training.steps=9")
    running = make(tmp_path / "run", config)
    running.run()
    run = diagnose.OpenRun(running.writer.run, checkpoint="step-00000008")
    shown = diagnose.diagnose(run)
    (logged,) = [r["train/loss"] for r in running.writer.run.metrics if r["step"] == 9 and "train/loss" in r]
    weight = sum(run.task.weight(batch) for batch in next(run.task.train_batches(8, running.shard)))
    assert shown["step"] == 9
    assert shown["loss"] / weight == pytest.approx(logged, rel=1e-5)
    for path in (tmp_path / "text").glob("train.*"):
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match="is a run of other data"):
        diagnose.diagnose(diagnose.OpenRun(running.writer.run, checkpoint="step-00000008"))


def test_nan_comes_first():
    values = {"a": torch.tensor(3.0), "b": torch.tensor(math.nan), "c": torch.tensor(math.inf)}
    assert list(diagnose.largest_first(values).items()) == [("b", "nan"), ("c", "inf"), ("a", 3.0)]
