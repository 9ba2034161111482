"""python -m multimax.suite.figures oversmoothing: how alike the tokens of an input are, by layer and over training."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from multimax.suite.engine import checkpoint
from multimax.suite.engine.open import OpenRun
from multimax.suite.errors import UserError
from multimax.suite.figures.commands import keep, open_runs, parse, runs_parser, save_figure
from multimax.suite.figures.oversmoothing_figure import Smoothing, oversmoothing_figure
from multimax.suite.identity import reweight_label
from multimax.suite.measures.oversmoothing import token_smoothing


def oversmoothing(arguments: Sequence[str]) -> None:
    """Patch similarity and MAD of every layer over the validation data, in one figure for all runs.

    They are measured on a DeiT's patches, or on the source tokens in a translation model's encoder.
    The numbers of each RUN go to its RUN/analysis.
    """
    parser = runs_parser(oversmoothing)
    parser.add_argument(
        "--over-training",
        action="store_true",
        help="measure the initial weights and each checkpoint that the run has as well (a run keeps as many as its "
        "training.keep_checkpoints)",
    )
    parsed = parse(parser, arguments)
    if parsed.ema or parsed.checkpoint == "average":
        raise UserError("oversmoothing is that of the weights at a step: --ema and --checkpoint average have none")
    found = []
    for run in open_runs(parsed):
        measured = [measure(run, step) for step in steps(run, parsed.over_training)]
        keep(run, "oversmoothing", {"measured": measured})
        config = run.task.config
        sites = vars(config.reweight)
        found.append(Smoothing(reweight_label(sites), config.reweight.attention["name"], config.seed, measured))
    save_figure(parsed.to or parsed.runs[0] / "analysis", "oversmoothing", *oversmoothing_figure(found))


def steps(run: OpenRun, over_training: bool) -> Iterator[int]:
    """Yield the steps to measure in ascending order, with the weights of each loaded into the model.

    Raises UserError for a damaged checkpoint.
    """
    step = checkpoint.step_of(run.checkpoints[0])
    if not over_training:
        yield step
        return
    torch.manual_seed(run.task.config.seed)
    run.model.load_state_dict(run.task.build_model().state_dict())
    yield 0
    for path in reversed(list(checkpoint.newest_first(run.run.checkpoints))):
        if checkpoint.step_of(path) <= step:
            try:
                checkpoint.verify(path)
            except ValueError as error:
                raise UserError(f"checkpoint {path} is damaged: {error}") from None
            checkpoint.load_weights(path, run.model, "model", run.device)
            yield checkpoint.step_of(path)


def measure(run: OpenRun, step: int) -> dict[str, Any]:
    """Means of each layer over the validation data, with the step and the epoch.

    Raises UserError for a model without such layers.
    """
    task = run.task
    with token_smoothing(run.model) as layers:
        if not layers:
            raise UserError(
                f"{run.path} is a run of task={task.config.task}: over-smoothing is that of an image's patches or of a "
                "source sentence's tokens, so that this needs one of task=deit or task=mt"
            )
        print(f"{run.path} step {step}: over-smoothing over the validation data")
        with torch.no_grad(), run.autocast():
            task.look(run.model, run.device)
    means = [layer.means for layer in layers]
    by_layer = {name: [round(of[name], 6) for of in means] for name in ("patch_similarity", "mad")}
    return {"step": step, "epoch": round(step / task.steps_per_epoch, 4), **by_layer}
