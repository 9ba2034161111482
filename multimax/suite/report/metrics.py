"""Which metric the tables of a task compare, and the range of each metric."""

import math
from dataclasses import dataclass

from multimax.suite.runs import Run

BASELINE = "softmax"
"""The function all others are compared with."""


@dataclass(frozen=True)
class Headline:
    """What a task's tables are about; ``metric`` is None for the one a run is scored by."""

    title: str
    higher_is_better: bool
    metric: str | None = None
    of: str = "the last step"


HEADLINE = {
    "deit": Headline("top-1 accuracy, %", True),
    "lm": Headline("perplexity", False),
    "mt": Headline(
        "BLEU on the test data", True, "test_bleu@best", "the weights that were best on the validation data"
    ),
}


def headline(run: Run) -> Headline:
    """The headline of a run's task; a plugin's task is compared by the metric that its runs are scored by."""
    task = run.config["task"]
    if task in HEADLINE:
        return HEADLINE[task]
    own = run.task_module.create
    return Headline(own.metric, own.higher_is_better)


POSSIBLE = {
    "top": (0.0, 100.0),
    "bleu": (0.0, 100.0),
    "sacrebleu": (0.0, 100.0),
    "ppl": (1.0, math.inf),
    "smoothed_ppl": (1.0, math.inf),
    "word_": (1.0, math.inf),
    "loss": (0.0, math.inf),
    "patch_similarity": (-1.0, 1.0),
    "mad": (0.0, 2.0),
}
"""Range of each metric, by the beginning of its name after any ``test_``."""


def possible(metric: str) -> tuple[float, float]:
    """The least and the greatest value of a metric."""
    name = metric.removeprefix("test_")
    return next((bounds for start, bounds in POSSIBLE.items() if name.startswith(start)), (-math.inf, math.inf))
