"""python -m multimax.suite.engine.diagnose RUN: which layer made the loss or the gradient of a step NaN or infinite.

Repeats one step of a run without changing it: the weights are those of the newest checkpoint, which skipped steps
leave as they were, and the batch and all randomness follow from the seed and the step.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multimax.reweight import Reweighting
from multimax.suite.engine import checkpoint
from multimax.suite.engine.open import OpenRun
from multimax.suite.engine.optimizers import set_weights
from multimax.suite.engine.trainer import step_seed
from multimax.suite.errors import Parser, one_line_errors, whole
from multimax.suite.runs import Run
from multimax.suite.tasks.base import Shard


@contextmanager
def largest_scores(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the largest absolute score that reaches each reweighting in the block, by the module's name.

    The result is NaN if any score was. Masked entries do not count. A fast path never bypasses a module that has a hook
    or its own ``loss``, so both see its scores.
    """
    found: dict[str, Tensor] = {}

    def note(name: str, scores: Tensor, mask: Tensor | None = None) -> None:
        size = scores.detach().abs().float()
        if mask is not None:
            size = size.masked_fill(~mask, 0)
        if size.numel():
            found[name] = torch.maximum(found.get(name, size.new_zeros(())), size.amax())

    def before(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note(name, args[0], args[1] if len(args) > 1 else kwargs.get("mask"))

    def loss(name: str, original: Callable[..., Tensor], scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        note(name, scores)
        return original(scores, *args, **kwargs)

    sites = {name: module for name, module in model.named_modules() if isinstance(module, Reweighting)}
    handles = []
    for name, module in sites.items():
        place = name.removesuffix(".reweight")
        handles.append(module.register_forward_pre_hook(partial(before, place), with_kwargs=True))
        module.loss = partial(loss, place, module.loss)  # type: ignore[method-assign]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for module in sites.values():
            del module.loss


def largest_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The largest absolute gradient of each module with its own parameters; NaN if any is NaN."""
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            module = name.rpartition(".")[0]
            size = parameter.grad.abs().amax().float()
            found[module] = torch.maximum(found.get(module, size), size)
    return found


def diagnose(run: OpenRun, step: int | None = None) -> dict[str, Any]:
    """Examples, loss, largest scores and largest gradients of a step, counted from 1, the largest first.

    By default this is the last step skipped before the checkpoint, or else the first after it. Raises UserError as
    ``OpenRun`` does, and if the data differ, since they would make a different step.
    """
    model, task = run.model.train(), run.task
    run.run.check_data(task.fingerprint())
    (path,) = run.checkpoints
    state = checkpoint.load_training(path)
    set_weights(model, state.get("trained weights", {}))
    if step is None:
        step = state["progress"]["step"] + (0 if state["progress"]["skipped_in_row"] else 1)
    shard = Shard(micro_batches=run.config.micro_batches(1))
    task.load_state(state["task"], shard)
    torch.manual_seed(step_seed(run.config.seed, step - 1, shard.rank))
    loss = 0.0
    with torch.compiler.set_stance("force_eager"), largest_scores(model) as scores:
        for batch in next(task.train_batches(step - 1, shard)):
            with run.autocast():
                summed = task.loss(model, batch, run.device)
            summed.backward()
            loss += summed.item()
    return {
        "checkpoint": path.name,
        "step": step,
        "examples": task.examples(step - 1),
        "loss": readable(loss),
        "largest scores": largest_first(scores),
        "largest gradients": largest_first(largest_gradients(model)),
    }


def largest_first(values: Mapping[str, Tensor]) -> dict[str, float | str]:
    numbers = {name: value.item() for name, value in values.items()}
    ordered = sorted(numbers, key=lambda name: math.inf if math.isnan(numbers[name]) else numbers[name], reverse=True)
    return {name: readable(numbers[name]) for name in ordered}


def readable(value: float) -> float | str:
    """The value for JSON, which has no NaN or infinity: they become strings."""
    return value if math.isfinite(value) else str(value)


@one_line_errors
def main() -> None:
    parser = Parser(prog="python -m multimax.suite.engine.diagnose", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for instance data.root=PATH")
    parser.add_argument("--step", type=whole(1), help="another step than that at which the run stopped, counted from 1")
    arguments = parser.parse_intermixed_args()
    run = OpenRun(Run(arguments.run), arguments.overrides)
    print(json.dumps(diagnose(run, arguments.step), indent=1))


if __name__ == "__main__":
    main()
