"""What only a CUDA device can show: runs resume there as if never stopped, and functions agree with a CPU."""

import math

import pytest
import torch
from engine_runs import EVERYTHING, TEXT_RUNS, configure, make, stop_at, write_text
from function_kinds import KINDS

from multimax import reweight
from multimax.suite.errors import Diverged, Interrupted
from multimax.suite.runs import Run

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]

TASKS = ["image_classification", *TEXT_RUNS]
# A GPU may add in a different order each time, which in bf16 may round a hidden value the other way.
TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}


def configured(root, name, precision="fp32", *more):
    options = EVERYTHING if name == "image_classification" else [*TEXT_RUNS[name], *write_text(root)]
    steps = ["training.epochs=null", "training.steps=12", "training.log_every=1", "training.evaluate_every=6"]
    return configure(*options, *steps, f"training.device={DEVICE}", f"training.precision={precision}", *more)


def losses(path):
    return {r["step"]: r["train/loss"] for r in Run(path).metrics if "train/loss" in r}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", TASKS)
def test_stopped_and_resumed_it_learns_what_it_learns_in_one_go(tmp_path, name, precision):
    config = configured(tmp_path, name, precision)
    make(tmp_path / "whole", config).run()
    for step in (5, 8):
        running = make(tmp_path / "broken", config)
        stop_at(running, step)
        with pytest.raises(Interrupted, match=f"stopped at step {step}"):
            running.run()
        running.writer.run_lock.close()
    make(tmp_path / "broken", config).run()
    whole, broken = losses(tmp_path / "whole"), losses(tmp_path / "broken")
    assert list(broken) == list(range(1, 13))
    assert broken == pytest.approx(whole, rel=TOLERANCE[precision])


@pytest.mark.parametrize("name", TASKS)
def test_a_bad_step_is_left_out_and_too_many_end_the_run(tmp_path, name):
    def run(folder, bad):
        running = make(tmp_path / folder, config)
        loss = running.task.loss

        def spoiled(model, batch, device):
            return loss(model, batch, device) + (math.nan if running.step + 1 in bad else 0.0)

        running.task.loss = spoiled
        return running.run()

    config = configured(tmp_path, name)
    run("one", {3})
    assert sorted({*range(1, 13)} - losses(tmp_path / "one").keys()) == [3]
    with pytest.raises(Diverged, match="the loss or the gradient is"):
        run("many", range(5, 13))
    assert (tmp_path / "many" / "nonfinite.json").exists()
    assert [p.name for p in (tmp_path / "many" / "checkpoints").iterdir()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_weights_and_gradients_are_those_of_the_cpu_in_float64(name, dtype):
    generator = torch.Generator().manual_seed(0)
    scores = (3 * torch.randn(2, 3, 5, 40, generator=generator)).to(dtype)
    mask = torch.rand(2, 1, 5, 40, generator=generator) < 0.7
    incoming = torch.randn(scores.shape, generator=generator).to(dtype)
    found = []
    for device, kind in (("cpu", torch.float64), (DEVICE, dtype)):
        torch.manual_seed(0)  # for the function's own parameters
        function = reweight.create(name, num_heads=3).to(device)
        leaf = scores.to(device, kind).requires_grad_()
        weights = function(leaf, mask.to(device))
        assert (weights.device.type, weights.dtype) == (torch.device(device).type, kind)
        gradient = torch.autograd.grad(weights, leaf, incoming.to(device, kind))[0]
        found.append((weights.double().cpu(), gradient.double().cpu()))
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    for ours, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)
