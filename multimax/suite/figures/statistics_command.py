"""python -m multimax.suite.figures statistics: what each layer and head is like over a run's validation data."""

from collections.abc import Sequence
from dataclasses import asdict

import torch

from multimax.suite.figures import statistics_figures
from multimax.suite.figures.commands import keep, open_runs, parse, runs_parser, save_figures
from multimax.suite.measures.attention_numbers import numbers
from multimax.suite.measures.streaming import attention_statistics


def statistics(arguments: Sequence[str]) -> None:
    """Statistics of the attention over each RUN's validation data, to its analysis folder.

    attention: sparsity, multi-modality, entropy, support and Gini index of each layer and head. histograms: the scores
    and the weights of each layer. modulators: MultiMax's learned curves, where a run has it.
    """
    parsed = parse(runs_parser(statistics), arguments)
    configs, found = [], []
    for run in open_runs(parsed):
        config = run.task.config
        print(f"{run.path} {run.names}: attention over the validation data")
        with attention_statistics(run.model) as sites, torch.no_grad(), run.autocast():
            run.task.look(run.model, run.device)
        configs.append(asdict(config))
        found.append({"function": config.reweight.attention["name"], **numbers(sites, run.model)})
        keep(run, "statistics", found[-1])
    save_figures(parsed, configs, found, statistics_figures.KINDS)
