"""python -m multimax.analysis statistics: what each layer and head is like over a run's validation data."""

from collections.abc import Sequence

import torch

from multimax.analysis import checkpoint_figures as figures
from multimax.analysis.runs import analysis_folder, open_runs, parse, runs_parser, save_figure
from multimax.analysis.streaming import attention_statistics
from multimax.tasks.base import Shard
from multimax.tasks.translation import Config as TranslationConfig


def statistics(arguments: Sequence[str]) -> None:
    """Statistics and figures of the attention over the validation data, to RUN/analysis of each RUN.

    attention: sparsity, multi-modality, entropy, support and Gini index of each layer and head. histograms: the scores
    and the weights of each layer. modulators: MultiMax's learned curves, where the run has it.
    """
    parsed = parse(runs_parser(statistics), arguments)
    for run in open_runs(parsed):
        config = run.task.config
        if isinstance(config, TranslationConfig):
            config.decoding.validation_sentences = 1  # the attention of training, not that of a beam's many hypotheses
        print(f"{run.path} {run.checkpoint}: attention over the validation data")
        with attention_statistics(run.model) as sites, torch.no_grad(), run.autocast():
            run.task.evaluate(run.model, run.device, Shard())
        made = {
            "attention": figures.attention_figure(sites, config.reweight.attention["name"]),
            "histograms": figures.histogram_figure(sites),
        }
        if learned := figures.modulators(run.model):
            made["modulators"] = figures.modulator_figure(learned, sites)
        for kind, (drawing, rows) in made.items():
            save_figure(parsed.to or analysis_folder(run.path), kind, drawing, rows)
