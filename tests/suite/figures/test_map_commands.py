"""The commands that draw maps, on runs of one step: what they save adds up, and mistakes give a one-line error."""

import csv
import json

import pytest
import torch
from PIL import Image

from multimax.suite import cli
from multimax.suite.data.german_grammar import corpus
from multimax.suite.figures.__main__ import COMMANDS, main
from multimax.suite.figures.commands import labels
from multimax.suite.figures.panels import draw_maps, panel

STEPS = ["training.epochs=null", "training.steps=1", "training.evaluate_every=1", "reweight/output=softmax"]
TINY = {
    "deit": ["schedule.warmup_epochs=null", "model.class_token=true", "model.depth=2"],
    "mt": ["data.source=files", "data.test_split=validation", "decoding.beam=1", "decoding.max_length_ratio=1"],
    "lm": ["model=transformer_lm", "model.depth=2", "model.dim=16", "model.num_heads=2", "model.segment_length=32",
           "model.eval_context=16", "data.eval_batch_size=200"],
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one step: two on images, with softmax and with sparsemax, and one on each kind of text."""
    folder = tmp_path_factory.mktemp("runs")
    for split, (german, english) in corpus().items():
        (folder / f"{split}.de").write_text("\n".join(german[:20]))
        (folder / f"{split}.en").write_text("\n".join(english[:20]))
    with pytest.MonkeyPatch.context() as patch:
        for task, name in (("deit", "softmax"), ("deit", "sparsemax"), ("mt", "sparsemax"), ("lm", "softmax")):
            options = [*TINY[task], *([f"data.root={folder}", f"data.cache_dir={folder}"] if task == "mt" else [])]
            where = f"run_dir={folder / task / name}"
            patch.setattr("sys.argv", ["train.py", f"task={task}", f"reweight={name}", where, *STEPS, *options])
            cli.train()
    Image.effect_noise((40, 30), 80).save(folder / "noise.png")
    return folder


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["analysis", *map(str, arguments)])
        main()


def kept(run, kind):
    return json.loads((run / "analysis" / f"{kind}.json").read_text())


def values(found):
    return [torch.tensor(part["values"]) for line in found["rows"] for part in line["panels"]]


def test_maps_of_a_patch(runs, tmp_path):
    pair = [runs / "deit" / name for name in ("softmax", "sparsemax")]
    call("maps", *pair, "--image", runs / "noise.png", "--query", "5", "--layers", "1", "--to", tmp_path)
    for run in pair:
        found = kept(run, "maps")
        assert (found["query"], found["checkpoint"]) == (5, "step-00000001")
        (weights,) = values(found)
        assert weights.shape == (4, 4)
        assert 0 < weights.sum() < 1, "the rest is the class token's"
    rows = list(csv.DictReader((tmp_path / "maps_compared.csv").open()))
    assert len(rows) == 2 * 16
    assert {row["run"] for row in rows} == {"softmax", "sparsemax-softmax"}
    alone = {row["run"] for row in csv.DictReader((pair[1] / "analysis" / "maps.csv").open())}
    assert alone == {"sparsemax-softmax"}
    assert (pair[1] / "analysis" / "maps.png").stat().st_size > 0
    # All layers of one head, for the class token instead of a patch.
    call("maps", pair[0], "--image", runs / "noise.png", "--query", "class", "--head", "2")
    assert len(values(kept(pair[0], "maps"))) == 2


def test_rollout_and_grad_cam(runs):
    run = runs / "deit" / "sparsemax"
    call("rollout", run, "--image", runs / "noise.png")
    (flow,) = values(kept(run, "rollout"))
    assert flow.shape == (4, 4)
    assert 0 < flow.sum() < 1
    call("gradcam", run, "--image", runs / "noise.png")
    found = kept(run, "gradcam")
    (speaks,) = values(found)
    assert speaks.min() >= 0
    name, weight = found["rows"][0]["panels"][0]["title"].split()
    assert name in "0123456789"
    assert 0.1 <= float(weight) <= 1


def test_alignment_of_a_sentence(runs):
    run = runs / "mt" / "sparsemax"
    call("alignment", run, "--source", "Der Hund schläft .", "--target", "The dog sleeps .")
    found = kept(run, "alignment")
    assert (found["keys"][-1], found["queries"][-1]) == ("</s>", "</s>")
    assert (len(found["keys"]), len(found["queries"])) == (5, 5)
    for weights in values(found):
        torch.testing.assert_close(weights.sum(-1), torch.ones(5), atol=2e-3, rtol=0)
    call("alignment", run, "--source", "Der Hund schläft .", "--layer", "1")
    assert len(values(kept(run, "alignment"))) == 4, "heads"


def test_heads_of_a_language_model(runs):
    run = runs / "lm" / "softmax"
    call("heads", run, "--text", "for x in\nrange", "--layers", "0,1")
    found = kept(run, "heads")
    assert found["keys"] == found["queries"] == list("for x in\nrange")
    assert [line["label"] for line in found["rows"]] == ["layer 0", "layer 1"]
    for weights in values(found):
        torch.testing.assert_close(weights, weights.tril())
        torch.testing.assert_close(weights.sum(-1), torch.ones(14), atol=2e-3, rtol=0)


MISTAKES = [
    ("maps deit/softmax --image noise.txt", "--image {}/noise.txt cannot be read"),
    ("maps deit/softmax --image deit/softmax/config.yaml", "config.yaml cannot be read"),
    ("maps deit/softmax --image noise.png --query 16", "has patches 0 to 15"),
    ("maps deit/softmax --image noise.png --layers 0,2", "--layers 0,2: {}/deit/softmax has layers 0 to 1"),
    ("maps deit/softmax --image noise.png --head x", "has heads 0 to 3"),
    ("rollout deit/softmax lm/softmax --image noise.png", "run of task=lm: this needs one of task=deit"),
    ("alignment mt/sparsemax --source=", "--source has no word"),
    (f"alignment mt/sparsemax --source={'Hund_' * 80}", "--source has 81 tokens, too many"),
    (f"heads lm/softmax --text {'x' * 40}", "longer than the model"),
    ("heads lm/softmax --text=", "--text has no word"),
    ("heads nowhere --text x", "is not a run folder"),
    ("heads data.root=x --text x", "no run folder is named"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_a_mistake_ends_in_one_line(runs, capsys, arguments, said):
    items = [str(runs / item) if "/" in item or "noise" in item else item for item in arguments.split()]
    with pytest.raises(SystemExit) as stopped:
        call(*(item.replace("_", " ") if item.startswith("--") else item for item in items))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ")
    assert said.format(runs) in line


def test_every_command_explains_itself(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            call(name, "--help")
        assert stopped.value.code == 0
        assert "KEY=VALUE" in capsys.readouterr().out


def test_runs_are_called_by_what_tells_them_apart():
    def config(name, seed):
        return {"seed": seed, "reweight": {"attention": {"name": name}, "output": {"name": name}}}

    assert labels([config("softmax", 0), config("multimax", 0)]) == ["softmax", "multimax"]
    assert labels([config("softmax", 0), config("softmax", 1)]) == ["softmax, seed 0", "softmax, seed 1"]
    assert len(set(labels([config("softmax", 0), config("softmax", 0)]))) == 2


def test_what_is_drawn_is_what_was_found():
    weights = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    found = {
        "keys": ["a", " "],
        "queries": ["a", "\n"],
        "rows": [{"label": "layer 0", "panels": [panel("head 0", weights)]}],
    }
    _, rows = draw_maps({"softmax": found})
    assert [row["value"] for row in rows] == ["0.25", "0.75", "1", "0"]
    assert [(row["row"], row["column"]) for row in rows] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
