"""python -m multimax.analysis RUN: what a trained model's attention is like, over its run's validation data."""

import torch

from multimax.cli import autocast, one_line_errors, open_model, open_task, run_parser
from multimax.errors import UserError
from multimax.tasks.base import Shard
from multimax.tasks.translation import Config as TranslationConfig


@one_line_errors
def main() -> None:
    """Write tables and figures of a checkpoint's attention to RUN/analysis.

    attention: sparsity, multi-modality, entropy, support and Gini index of each layer and head. histograms: the scores
    and the weights of each layer. modulators: MultiMax's learned curves, where the run has it.
    """
    parser = run_parser(main)
    parser.prog = "python -m multimax.analysis"
    arguments = parser.parse_intermixed_args()
    try:
        from multimax.analysis import checkpoint_figures as figures
        from multimax.analysis.streaming import attention_statistics
        from multimax.report.outputs import csv_table, write
        from multimax.report.pictures import drawn
    except ModuleNotFoundError as error:
        raise UserError(f"figures need the package {error.name}: pip install -e '.[report]'") from None
    task = open_task(arguments)
    if isinstance(task.config, TranslationConfig):
        task.config.decoding.validation_sentences = 1  # the attention of training, not that of a beam's many hypotheses
    model, device, name = open_model(arguments, task)
    print(f"{name}: attention over the validation data")
    with attention_statistics(model) as sites, torch.no_grad(), autocast(task, device):
        task.evaluate(model, device, Shard())
    function = task.config.reweight.attention["name"]
    made = {"attention": figures.attention_figure(sites, function), "histograms": figures.histogram_figure(sites)}
    if learned := figures.modulators(model):
        made["modulators"] = figures.modulator_figure(learned, sites)
    folder = arguments.run / "analysis"
    folder.mkdir(exist_ok=True)
    for kind, (drawing, rows) in made.items():
        for suffix, content in (
            (".csv", csv_table(list(rows[0]), rows)),
            (".svg", drawn(drawing, "svg")),
            (".png", drawn(drawing, "png")),
        ):
            write(folder / f"{kind}{suffix}", content)
            print(folder / f"{kind}{suffix}")


if __name__ == "__main__":
    main()
