"""What an evaluation measures and pictures of a model."""

import json
import math

import pytest
import torch
from PIL import Image

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.engine.observation import measure, observe
from multimax.suite.measures.sparsity import multi_modality, sparsity
from multimax.suite.runs import Run
from multimax.suite.tasks import task_module

CPU = torch.device("cpu")
SMALL = {
    "deit": ["model.depth=2"],
    "lm": ["model.depth=2", "model.dim=16", "model.num_heads=2", "model.ffn_dim=16"],
    "mt": [],
}


@pytest.fixture(scope="module")
def made():
    """Make the task and model of a combination, each only once."""
    cache = {}

    def make(name, *overrides):
        if (name, overrides) not in cache:
            config = typed(compose_configuration([f"task={name}", *SMALL[name], *overrides]))
            task = task_module(name).create(config)
            torch.manual_seed(0)
            cache[name, overrides] = task, task.build_model().eval()
        return cache[name, overrides]

    return make


@pytest.mark.parametrize("function", ["softmax", "sparsemax", "multimax"])
@pytest.mark.parametrize("name", ["deit", "lm", "mt"])
def test_every_task_shows_its_attention(made, name, function):
    task, model = made(name, f"reweight={function}")
    numbers, attention = measure(task, model, CPU)
    assert attention
    for weights in attention.values():
        assert weights.dim() == 4
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    for kind in ("sparsity", "multi_modality"):
        sites = {key.split("/")[1] for key in numbers if key.startswith(f"{kind}/")}
        assert sites == {*attention, "mean"}
        assert all(0 <= value <= 1 for key, value in numbers.items() if key.startswith(kind))
    parameters = {key: value for key, value in numbers.items() if key.startswith("reweight/")}
    own = sum(p.numel() for n, p in model.named_parameters() if n.split(".")[-1] in ("ts", "ranges"))
    assert len(parameters) == own
    assert (own > 0) == (function == "multimax")


def test_sparsity_is_that_of_the_scores_about_their_mean(made):
    task, model = made("deit", "reweight=multimax")
    numbers, attention = measure(task, model, CPU)
    seen = {}
    layer = model.backbone.blocks[1].attn
    handle = layer.reweight.register_forward_hook(lambda module, inputs, output: seen.update(scores=inputs[0]))
    with torch.no_grad():
        task.probe(model, CPU)
    handle.remove()
    scores = seen["scores"].double()
    weights = attention["backbone.blocks.1.attn"].double()
    sums = {"sparsity": [], "multi_modality": []}
    for row, p in zip(scores.flatten(0, 2), weights.flatten(0, 2), strict=True):
        for kind, function in (("sparsity", sparsity), ("multi_modality", multi_modality)):
            value = function(row, p, float(row.mean())).item()
            if math.isfinite(value):
                sums[kind].append(value)
    for kind, values in sums.items():
        assert numbers[f"{kind}/backbone.blocks.1.attn"] == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_parameters_are_the_models(made):
    task, model = made("deit", "reweight=multimax")
    numbers, _ = measure(task, model, CPU)
    ts = model.backbone.blocks[0].attn.reweight.ts.tolist()
    assert [numbers[f"reweight/backbone.blocks.0.attn/ts.{i}"] for i in range(4)] == ts
    assert numbers["reweight/output/ranges.3"] == model.output.ranges[3].item()


@pytest.mark.parametrize("name", ["deit", "lm", "mt"])
def test_observing_draws_no_random_number_changes_nothing_and_repeats(made, tmp_path, name):
    task, model = made(name, "reweight=multimax", "logger.samples_every=1")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    seen = [observe(task, model, CPU, Run(tmp_path / str(i)), 0, 0) for i in range(2)]
    assert seen[0] == seen[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    first, second = (tmp_path / str(i) / "samples" / "step-00000000" for i in range(2))
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    content = json.loads((first / "samples.json").read_text())
    assert len(content["rows"]) >= 4
    assert all(row["caption"] for row in content["rows"])
    with Image.open(first / content["attention"]) as image:
        image.load()
        assert min(image.size) > 20


def test_samples_come_at_intervals_and_at_the_end_and_only_when_wanted(made, tmp_path):
    task, model = made("deit", "reweight=multimax", "logger.samples_every=2", "training.evaluate_every=5")
    for step in (5, 10, 15, 17):
        observe(task, model, CPU, Run(tmp_path), step, 17)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step-00000010", "step-00000017"]
    task, model = made("deit", "reweight=multimax", "logger.measure=false")
    assert observe(task, model, CPU, Run(tmp_path / "none"), 5, 5) == {}
    assert not (tmp_path / "none").exists()
