"""What a run shows of its model besides its metrics: the reweightings' parameters, attention, and sample predictions.

Nothing here draws random numbers or changes the model, so a resumed run shows what an uninterrupted one would.
"""

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from multimax.reweight import Reweighting
from multimax.suite.files import write_atomic
from multimax.suite.measures.attention_maps import observe_attention
from multimax.suite.measures.attention_rows import centred
from multimax.suite.measures.sparsity import multi_modality, sparsity
from multimax.suite.runs import Run
from multimax.suite.tasks import Task

PICTURED = 8  # most heads, and most layers (spread evenly over the depth), in a picture
MEASURES: dict[str, Callable[..., Tensor]] = {"sparsity": sparsity, "multi_modality": multi_modality}


class Observer(AbstractContextManager):
    """Follows the training of a run, which happens within its context. This base class does nothing."""

    def update(self) -> None:
        """Called once everything about a step has been logged."""

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Called when training ends, with an exception or without."""


def observe(
    task: Task, model: nn.Module, device: torch.device, run: Run, step: int, total_steps: int
) -> dict[str, float]:
    """What ``config.logger`` asks of a model in evaluation mode: numbers to log, returned, and samples, in files."""
    options, training = task.config.logger, task.config.training
    every = options.samples_every * (training.evaluate_every or task.steps_per_epoch)
    sampling = every and (step % every == 0 or step == total_steps)
    if not (options.measure or sampling):
        return {}
    numbers, attention = measure(task, model, device)
    if sampling:
        save_samples(run.samples_folder(step), task, model, device, attention)
    return numbers if options.measure else {}


@torch.no_grad()
def measure(task: Task, model: nn.Module, device: torch.device) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Numbers to log about a model in evaluation mode, and its attention weights on the task's probe, by site.

    ``reweight/SITE/PARAMETER.INDEX`` are the reweightings' own parameters. ``sparsity/SITE`` and
    ``multi_modality/SITE`` are means over the rows of the probe's attention (multimax.suite.measures.sparsity), and
    ``.../mean`` their means over sites. The threshold between relevant and irrelevant scores is the row's mean, since
    no one number suits every layer.
    """
    numbers = {
        f"reweight/{name.removesuffix('.reweight')}/{parameter}.{index}": value
        for name, module in model.named_modules()
        if isinstance(module, Reweighting)
        for parameter, values in module.named_parameters()
        for index, value in enumerate(values.flatten().tolist())
    }
    heard: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
    with observe_attention(model, lambda name, *forward: heard.update({name: forward})):
        task.probe(model, device)
    for kind, measured in MEASURES.items():
        means = {name: row_mean(measured, *forward) for name, forward in heard.items()}
        means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
        numbers |= {f"{kind}/{name}": mean for name, mean in means.items()}
        if means:
            numbers[f"{kind}/mean"] = sum(means.values()) / len(means)
    return numbers, {name: weights for name, (weights, *_) in heard.items()}


def row_mean(measured: Callable[..., Tensor], weights: Tensor, scores: Tensor, mask: Tensor | None = None) -> float:
    """Mean of ``measured`` over the rows where it is defined; NaN if there are none."""
    scores, live = centred(scores, mask)
    return measured(scores, weights.float(), 0.0, mask=live).nanmean().item()


@torch.no_grad()
def save_samples(
    folder: Path, task: Task, model: nn.Module, device: torch.device, attention: dict[str, Tensor]
) -> None:
    """Write the model's predictions for the task's samples, and pictures of its attention, to ``folder``.

    ``samples.json`` is written last: if it exists, so does everything else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, sample in enumerate(task.samples(model, device)):
        row = {"caption": sample.caption}
        if sample.picture is not None:
            row["picture"] = f"{index}.png"
            save_image(sample.picture.float().cpu(), folder / row["picture"])
        rows.append(row)
    content: dict[str, object] = {"rows": rows}
    if attention:
        content["attention"] = "attention.png"
        save_image(picture_of(list(attention.values())), folder / "attention.png")
    write_atomic(folder / "samples.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def picture_of(layers: list[Tensor]) -> Tensor:
    """Attention of the first example as an image: a row per layer, a column per head; white is the maximum.

    layers: [batch, heads, queries, keys] each; smaller ones are padded with black.
    """
    some = [layers[round(i)] for i in torch.linspace(0, len(layers) - 1, min(PICTURED, len(layers))).tolist()]
    maps = [weights[0, :PICTURED].float().cpu() for weights in some]
    height, width = (max(weights.shape[side] for weights in maps) for side in (-2, -1))
    columns = max(len(weights) for weights in maps)
    grid = torch.zeros(len(maps) * columns, 1, height, width)
    for row, weights in enumerate(maps):
        scaled = weights / weights.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        grid[row * columns : row * columns + len(weights), 0, : weights.shape[-2], : weights.shape[-1]] = scaled
    enlarged = grid.repeat_interleave(factor := max(1, 128 // max(height, width)), -1).repeat_interleave(factor, -2)
    return make_grid(enlarged, nrow=columns, padding=2, pad_value=0.5)
