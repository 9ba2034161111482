"""python -m multimax.suite.figures statistics: what each layer and head is like over a run's validation data."""

from collections.abc import Sequence
from typing import Any

import torch

from multimax.suite.engine.open import OpenRun
from multimax.suite.figures.commands import compare, parse, runs_parser
from multimax.suite.figures.statistics_figures import KINDS
from multimax.suite.measures.attention_numbers import numbers
from multimax.suite.measures.streaming import attention_statistics


def statistics(arguments: Sequence[str]) -> None:
    """Write statistics of the attention over each RUN's validation data to its analysis folder.

    attention: sparsity, multi-modality, entropy, support and Gini index of each layer and head. histograms: the scores
    and the weights of each layer. modulators: MultiMax's learned curves, if the run uses it.
    """

    def find(run: OpenRun) -> dict[str, Any]:
        function = run.task.config.reweight.attention["name"]
        print(f"{run.path} {run.names}: attention over the validation data")
        with attention_statistics(run.model) as sites, torch.no_grad(), run.autocast():
            run.task.look(run.model, run.device)
        return {"function": function, **numbers(sites, run.model)}

    compare(parse(runs_parser(statistics), arguments), None, "statistics", find, KINDS)
