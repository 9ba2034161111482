"""One run of train.py for an entry of the plan: trained, measured in every available way, and thrown away."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from multimax.reweight import Reweighting
from multimax.suite.composition import compose_configuration, typed
from multimax.suite.data.fingerprint import digest
from multimax.suite.engine import distributed, parent
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.trainer import Trainer
from multimax.suite.identity import run_name
from multimax.suite.measures.attention_rows import MEASURES
from multimax.suite.measures.calibration import calibration_error
from multimax.suite.measures.oversmoothing import token_smoothing
from multimax.suite.measures.streaming import attention_statistics
from multimax.suite.plan import Arm
from multimax.suite.planned.table import packed
from multimax.suite.tasks import Task, task_of

BLOCKS = 200  # stretches of a text, each counting as one example


@dataclass(frozen=True)
class Trainings:
    """Runs with ``overrides`` and each arm's own; ``places`` says where data are here, and is not kept.

    Unfinished runs are kept in ``folder``, so the same run continues where it stopped. ``plugins`` and ``config_dir``
    are the user's own, as for train.py.
    """

    overrides: Sequence[str]
    arms: Mapping[str, Sequence[str]]
    places: Sequence[str]
    folder: Path
    plugins: Sequence[str] = ()
    config_dir: str | None = None

    def run(self, arm: Arm, seed: int) -> dict[str, str]:
        """Measures of the initial model, the loss, and every measure of the trained model. Raises UserError."""
        overrides = self.command(arm, seed)
        config = parent.found(typed(compose_configuration(overrides, self.config_dir), overrides=overrides))
        writer = RunWriter(self.folder / run_name(config), config)
        device = distributed.choose_device(config.training.device)
        with distributed.processes(device):
            task = task_of(asdict(config)).create(config)
            trainer, initial = Trainer(task, writer), fresh(task, device)
            with calls(getattr(task, "sacrebleu", None), "sums") as translated:
                metrics = trainer.run()
            with evaluated(task, trainer.model) as examples:
                last = smoothing_and_attention(task, trainer.model, device)
        if translated:
            examples |= translations(task, translated, metrics)
        found = metrics | losses(writer.run.metrics) | initial | last | parameters(trainer.model)
        facts = {"data": digest([repr(sorted(writer.run.data.items())).encode()])} if writer.run.data else {}
        seconds = writer.run.summary["throughput"]["seconds"]
        shutil.rmtree(writer.path)
        numbers = {name: f"{value:.6g}" for name, value in found.items()}
        return facts | {"seconds": f"{seconds:.1f}"} | numbers | examples

    def command(self, arm: Arm, seed: int) -> list[str]:
        """The overrides of one run."""
        own = self.arms.get(arm.name, [f"reweight/attention={arm.name}"])
        run = [f"optimizer.learning_rate={arm.rate:g}", f"seed={seed}", "logger.measure=false"]
        modules = [f"plugins=[{','.join(self.plugins)}]"] if self.plugins else []
        return [*modules, *self.overrides, "reweight=softmax", *own, *run, *self.places]


@torch.no_grad()
def fresh(task: Task, device: torch.device) -> dict[str, float]:
    """Over-smoothing of the initial weights, as ``initial_NAME``."""
    torch.manual_seed(task.config.seed)
    model = task.build_model().to(device)
    with token_smoothing(model) as layers:
        if not layers:
            return {}
        task.look(model.eval(), device)
    return {f"initial_{name}": value for name, value in by_layer(layers).items()}


@torch.no_grad()
def smoothing_and_attention(task: Task, model: nn.Module, device: torch.device) -> dict[str, float]:
    """MEASURES of attention over the validation data, for each site and averaged over sites, and over-smoothing."""
    with attention_statistics(model) as sites, token_smoothing(model) as layers:
        task.look(model.eval(), device)
    found: dict[str, float] = {}
    for index, name in enumerate(MEASURES):
        of = {site: statistics.means[index].nanmean().item() for site, statistics in sites.items()}
        found |= {name: sum(of.values()) / len(of)} if of else {}
        found |= {f"{name}:{site}": value for site, value in of.items()}
    return found | (by_layer(layers) if layers else {})


def by_layer(layers: Sequence[Any]) -> dict[str, float]:
    """Means over all layers and over the last third of them, and each layer's."""
    found: dict[str, float] = {}
    for name in ("patch_similarity", "mad"):
        values = [layer.means[name] for layer in layers]
        last = values[-max(1, len(values) // 3) :]
        found |= {name: sum(values) / len(values), f"{name}_last_third": sum(last) / len(last)}
        found |= {f"{name}:{layer}": value for layer, value in enumerate(values)}
    return found


def losses(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The training loss over the third and last quarters of the steps, which show whether it was still falling."""
    logged = torch.tensor([row["train/loss"] for row in rows if "train/loss" in row])
    quarters = logged.tensor_split(4)
    return {"third_quarter": quarters[2].mean().item(), "last_quarter": quarters[3].mean().item()}


def parameters(model: nn.Module) -> dict[str, float]:
    """The parameters of the reweightings, as ``NAME.INDEX:SITE``."""
    return {
        f"{parameter}.{index}:{name.removesuffix('.reweight')}": value
        for name, module in model.named_modules()
        if isinstance(module, Reweighting)
        for parameter, values in module.named_parameters(recurse=False)
        for index, value in enumerate(values.flatten().tolist())
    }


Calls = list[tuple[tuple[Any, ...], Any]]


@contextmanager
def calls(owner: Any, name: str) -> Iterator[Calls]:
    """Collect the arguments and results of a method of ``owner`` within the context; nothing if it is None."""
    seen: Calls = []
    if owner is None:
        yield seen
        return
    original = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        seen.append((arguments, original(*arguments, **options)))
        return seen[-1][1]

    setattr(owner, name, call)
    try:
        yield seen
    finally:
        delattr(owner, name)


@contextmanager
def evaluated(task: Task, model: Any) -> Iterator[dict[str, str]]:
    """Fill a dictionary with what the one evaluation within the context says about each image or stretch of text.

    ``examples:METRIC`` has the values whose mean is the metric: for ``top1`` each image's 0 or 100, for a text's
    ``loss`` those of ``BLOCKS`` stretches. Along with ``top1`` there is the ``calibration_error``.
    """
    found: dict[str, str] = {}
    if task.config.task == "deit":
        with calls(model.output, "loss") as seen:
            yield found
        scores, targets = (torch.cat(of) for of in zip(*(arguments for arguments, _ in seen), strict=True))
        confidence, classes = model.output(scores).max(-1)
        right = (classes == targets).double()
        error = calibration_error(confidence.double(), right)
        found |= {"calibration_error": f"{error:.6g}", "examples:top1": packed(100 * right)}
    elif task.config.task == "lm":
        with calls(model, "losses") as seen:
            yield found
        stretches = torch.cat([result for _, result in seen]).double().tensor_split(BLOCKS)
        found["examples:loss"] = packed(torch.stack([stretch.mean() for stretch in stretches]))
    else:
        yield found


def translations(task: Any, scored: Calls, metrics: Mapping[str, float]) -> dict[str, str]:
    """Jackknife pseudo-values of the test data's BLEU, one per sentence: their mean is BLEU apart from bias."""
    bleu, name = task.sacrebleu, f"test_{task.sacrebleu.name}@last"
    hypotheses, references = next(texts for texts, sums in scored if bleu.score(sums) == metrics[name])
    each = [bleu.sums([ours], [theirs]) for ours, theirs in zip(hypotheses, references, strict=True)]
    total = {key: sum(sums[key] for sums in each) for key in bleu.keys}
    without = [bleu.score({key: total[key] - sums[key] for key in bleu.keys}) for sums in each]
    values = len(each) * metrics[name] - (len(each) - 1) * torch.tensor(without, dtype=torch.float64)
    return {f"examples:{name}": packed(values)}
