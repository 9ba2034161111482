"""Runs that start from the weights of another run or a file, and runs that extend a finished one."""

import json
import shutil
from dataclasses import asdict

import pytest
import torch
from engine_runs import EVERYTHING, TEXT_RUNS, configure, make, numbers, write_text
from safetensors.torch import save_file

from multimax.suite.engine import parent, provenance
from multimax.suite.engine.open import OpenRun
from multimax.suite.engine.trainer import Trainer
from multimax.suite.errors import UserError
from multimax.suite.identity import identity, run_name, setting
from multimax.suite.runs import Run
from multimax.suite.tasks import task_module
from multimax.suite.tasks.image_classification import build_model

DIGITS = [*EVERYTHING, "reweight=multimax", "schedule.name=constant", "schedule.warmup_steps=2"]
DIGITS += ["schedule.warmup_epochs=null", "training.log_every=1"]
RUNS = {"deit": DIGITS, **TEXT_RUNS}


def arguments(name, root):
    return [*RUNS[name], *([] if name == "deit" else write_text(root))]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A finished run of ten steps."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    make(path, configure(*DIGITS)).run()
    return path


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Write the weights of timm's model for ``classes`` classes; return the file and the weights."""

    def write(*overrides, classes=10):
        config = configure(*DIGITS, "reweight=softmax", *overrides)
        torch.manual_seed(5)
        state = build_model(config, classes).backbone.state_dict()
        path = tmp_path_factory.mktemp("stock") / "model.safetensors"
        save_file(state, path)
        return path, state

    return write


def start(path, *overrides) -> Trainer:
    return make(path, configure(*DIGITS, *overrides))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_extended_is_the_run_of_both_lengths(tmp_path, name):
    """To the last bit, if the schedule does not depend on the end: the optimiser, the data and a memory carry on."""
    given = [*arguments(name, tmp_path), "schedule.name=constant", "schedule.final_rate=0", "training.epochs=null"]
    short, whole = ([*given, f"training.steps={steps}"] for steps in (8, 16))
    make(tmp_path / "whole", configure(*whole)).run()
    make(tmp_path / "short", configure(*short)).run()
    make(tmp_path / "longer", configure(*whole, f"extends={tmp_path / 'short'}")).run()
    last = "checkpoints/step-00000016/model.safetensors"
    assert (tmp_path / "longer" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()
    assert numbers(tmp_path / "longer") == [row for row in numbers(tmp_path / "whole") if row["step"] > 8]
    assert Run(tmp_path / "longer").config["parent"]["run"] == "short"
    assert Run(tmp_path / "longer").starts[0]["step"] == 8


def test_a_run_is_extended_by_another_schedule_and_by_none_of_another_model_or_other_data(digits, tmp_path):
    longer = ["training.steps=14", f"extends={digits}"]
    running = start(tmp_path / "cosine", *longer, "schedule.name=cosine", "optimizer.weight_decay=0.3")
    running.run()
    rates = [row["train/learning_rate"] for row in Run(tmp_path / "cosine").metrics if "train/learning_rate" in row]
    assert rates == sorted(rates, reverse=True)
    assert {group["weight_decay"] for group in running.optimizer.param_groups} == {0.0, 0.3}
    for change, message in {
        "model.depth=1": "model.depth was 2, now 1: init_from=.* takes its weights alone",
        "seed=1": "seed was 0, now 1",
        "training.batch_size=16": "training.batch_size was 32, now 16",
        "training.steps=10": "has 10 steps, and this run is to have 10 in all",
        f"init_from={digits}": "at most one of init_from",
        f"extends={tmp_path}": "is not a run folder",
    }.items():
        with pytest.raises(UserError, match=message):
            start(tmp_path / "refused", *longer, change)
    other = shutil.copytree(digits, tmp_path / "other")
    (other / "data.json").write_text('{"classes": ["cat"]}')
    with pytest.raises(UserError, match="a run of other data"):
        start(tmp_path / "refused", "training.steps=14", f"extends={other}").run()
    (other / "summary.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        start(tmp_path / "refused", "training.steps=14", f"extends={other}")


def test_weights_of_a_run_are_taken_and_parameters_of_another_function_are_drawn(digits, tmp_path):
    theirs = parent.read(parent.locate(str(digits)).path)
    same = start(tmp_path / "same", f"init_from={digits}")
    assert all(torch.equal(value, theirs[key]) for key, value in same.model.state_dict().items())
    assert [line.split(": ")[1] for line in same.initialised] == [f"{len(theirs)} of {len(theirs)} tensors"]
    assert same.step == 0

    other = start(tmp_path / "other", f"init_from={digits}", "reweight=temperature")
    kept = {key for key, value in other.model.state_dict().items() if key in theirs and torch.equal(value, theirs[key])}
    assert kept == {key for key in theirs if "reweight" not in key and not key.startswith("output.")}
    assert any("left out, since the reweighting" in line or "drawn, since" in line for line in other.initialised)
    for name in ("checkpoints/step-00000010", "checkpoints/step-00000010/ema.safetensors"):
        loaded = start(tmp_path / "named", f"init_from={digits / name}")
        assert loaded.config.parent.run == "digits"
    with pytest.raises(UserError, match=r"backbone.blocks.0.attn.proj.bias is \[64\], and here \[32\]"):
        start(tmp_path / "narrow", f"init_from={digits}", "model.embed_dim=32", "model.num_heads=2")
    with pytest.raises(UserError, match=r"it has besides backbone.blocks.1"):
        start(tmp_path / "shallow", f"init_from={digits}", "model.depth=1")
    with pytest.raises(UserError, match=r"it lacks backbone.blocks.2"):
        start(tmp_path / "deep", f"init_from={digits}", "model.depth=3")


@pytest.mark.parametrize("kind", ["safetensors", "pth", "model", "folder", "cache", "hub"])
def test_stock_weights_load_under_any_reweighting_from_wherever_they_are(stock, tmp_path, monkeypatch, kind):
    path, state = stock()
    name = str(path)
    if kind in ("pth", "model"):
        name = str(tmp_path / "stock.pth")
        torch.save({"model": state} if kind == "model" else state, name)
    elif kind == "folder":
        name = str(path.parent)
    elif kind in ("cache", "hub"):
        folder = tmp_path / "hub" / "models--somebody--digits"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        shutil.copy(path, folder / "snapshots" / ("0" * 40))
        name = str(folder)
    if kind == "hub":
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        name = "hub:somebody/digits"
    running = start(tmp_path / "run", f"init_from={name}")
    loaded = running.model.backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert any("drawn, since no such parameters of the reweighting" in line for line in running.initialised)
    ema = running.ema.module.backbone.state_dict()
    assert all(torch.equal(ema[key], value) for key, value in state.items())


def test_weights_of_another_kind_of_number_are_refused(stock, tmp_path):
    torch.save({key: value.to(torch.int8) for key, value in stock()[1].items()}, tmp_path / "int8.pth")
    with pytest.raises(UserError, match=r"is of torch.int8, and here of torch.float32"):
        start(tmp_path / "run", f"init_from={tmp_path / 'int8.pth'}")


def test_another_number_of_classes_draws_the_head_and_another_image_size_resamples_the_positions(stock, tmp_path):
    path, state = stock(classes=7)
    running = start(tmp_path / "classes", f"init_from={path}")
    assert any("drawn anew" in line and "head.bias, backbone.head.weight" in line for line in running.initialised)
    assert running.model.backbone.head.weight.shape[0] == 10
    assert torch.equal(running.model.backbone.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])

    path, state = stock("data.image_size=16")
    running = start(tmp_path / "positions", f"init_from={path}")
    assert any("pos_embed: resampled from 1x64x64 to 1x16x64" in line for line in running.initialised)
    assert torch.equal(running.model.backbone.head.weight, state["head.weight"])

    path, _ = stock("model.class_token=true", "model.pool=token")
    with pytest.raises(UserError, match=r"have a class token: set model\.class_token=true model\.pool=token"):
        start(tmp_path / "token", f"init_from={path}")


def test_classes_of_another_name_draw_the_head(digits, tmp_path):
    other = shutil.copytree(digits, tmp_path / "other")
    (other / "data.json").write_text('{"classes": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "ten"]}')
    running = start(tmp_path / "run", f"init_from={other}")
    assert any("drawn anew" in line for line in running.initialised)
    assert not torch.equal(running.model.backbone.head.weight, parent.read(
        parent.locate(str(digits)).path)["backbone.head.weight"])  # fmt: skip


@pytest.mark.parametrize("name", TEXT_RUNS)
def test_weights_of_text_are_taken_and_the_embeddings_of_another_vocabulary_are_drawn(tmp_path, name):
    given = [*arguments(name, tmp_path), "training.epochs=null", "training.steps=2", "training.evaluate_every=2"]
    make(tmp_path / "first", configure(*given)).run()
    theirs = parent.read(parent.locate(str(tmp_path / "first")).path)
    same = make(tmp_path / "same", configure(*given, f"init_from={tmp_path / 'first'}", "seed=1"))
    assert all(torch.equal(value, theirs[key]) for key, value in same.model.state_dict().items())
    for path in (tmp_path / "text").iterdir():
        path.write_text(path.read_text().replace("eight", "nine"))
    other = make(tmp_path / "other", configure(*given, f"init_from={tmp_path / 'first'}", "seed=1"))
    kept = {key for key, value in other.model.named_parameters() if torch.equal(value, theirs[key])}
    assert {key for key in theirs if "embedding" not in key and key != "_extra_state"} == kept
    assert any("drawn anew, for other classes or another vocabulary" in line for line in other.initialised)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not hold weights alone"),
        (b"PK\3\4", "does not hold weights alone"),
        ({"step": 3}, "not the state dict"),
        ({0: torch.ones(2)}, "not the state dict"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path, content, message):
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        start(tmp_path / "run", f"init_from={path}")
    for name, message in {"absent.pth": "no run and no file", "": "neither a run nor a checkpoint"}.items():
        with pytest.raises(UserError, match=message):
            start(tmp_path / "run", f"init_from={tmp_path / name}")
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(UserError, match="files of weights end in"):
        start(tmp_path / "run", f"init_from={tmp_path / 'notes.txt'}")


def test_the_weights_are_part_of_a_run_s_name_and_their_place_is_not(digits, tmp_path):
    moved = shutil.copytree(digits, tmp_path / "digits")
    here, there = (parent.found(configure(*DIGITS, f"init_from={path}")) for path in (digits, moved))
    assert run_name(here) == run_name(there) != run_name(configure(*DIGITS))
    schema = task_module("deit").Config
    assert identity(asdict(here), schema)["parent.run"] == "digits"
    ema = parent.found(configure(*DIGITS, f"init_from={digits}/checkpoints/step-00000010/ema.safetensors"))
    assert run_name(ema) != run_name(here)
    assert setting(asdict(ema), schema) == setting(asdict(here), schema)  # also true of parents with other seeds
    file = tmp_path / "copied.safetensors"
    shutil.copy(parent.locate(str(digits)).path, file)
    assert setting(asdict(parent.found(configure(*DIGITS, f"init_from={file}"))), schema) != setting(
        asdict(here), schema
    )
    assert not any(key.startswith("parent") for key in identity(asdict(configure(*DIGITS)), schema))
    with pytest.raises(UserError, match=r"parent.run follows from init_from or extends"):
        configure("parent.run=other").check_read({"parent.run"})


def test_the_rows_of_a_head_follow_the_names_of_the_classes(digits, tmp_path):
    other = shutil.copytree(digits, tmp_path / "other")
    data = json.loads((other / "data.json").read_text())
    names = data["classes"]
    theirs = parent.read(parent.locate(str(digits)).path)
    order = [*range(5, 10), *range(5)]
    (other / "data.json").write_text(json.dumps(data | {"classes": [names[i] for i in order]}))
    running = start(tmp_path / "run", f"init_from={other}")
    for key, value in running.model.state_dict().items():
        rows = [order.index(i) for i in range(10)]
        assert torch.equal(value, theirs[key][rows] if key.startswith("backbone.head.") else theirs[key])
    assert any("put into the order of the classes here" in line for line in running.initialised)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wrappers_put_before_names_is_taken_off(digits, tmp_path, prefix):
    theirs = parent.read(parent.locate(str(digits)).path)
    save_file({f"{prefix}{key}": value for key, value in theirs.items()}, tmp_path / "wrapped.safetensors")
    running = start(tmp_path / "run", f"init_from={tmp_path / 'wrapped.safetensors'}")
    assert all(torch.equal(value, theirs[key]) for key, value in running.model.state_dict().items())
    assert f"taken without {prefix} before the names" in running.initialised


def test_another_revision_than_that_of_the_weights_is_said(digits, tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setattr(provenance, "revision", lambda: "another")
    said = f"the code has changed since {digits} was trained: it was {Run(digits).revision}, now another"
    assert said in start(tmp_path / "run", f"init_from={digits}").initialised
    assert OpenRun(Run(digits)).config.task == "deit"
    ours = [record for record in caplog.records if record.name.startswith("multimax.")]  # fairseq lets others through
    assert [record.getMessage() for record in ours] == [said]
    start(tmp_path / "longer", f"extends={digits}", "training.steps=11").run()
    assert said in capsys.readouterr().out
