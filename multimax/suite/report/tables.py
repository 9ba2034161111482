"""Tables of final metrics: each function's mean over its seeds, with deviation and interval, within one experiment."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from multimax.suite.errors import UserError
from multimax.suite.report.outputs import Output, Row, save, table
from multimax.suite.report.statistics import mean_over_seeds
from multimax.suite.runs import Run, read_runs


@dataclass(frozen=True)
class Headline:
    """What a task's tables are about: ``metric`` is None for the one that a run is scored by."""

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

COLUMNS = ("function", "seeds", "mean", "standard deviation", "95% interval", "values", "parameters", "revision")


def rows(records: Sequence[Run], metric: str, higher_is_better: bool) -> list[Row]:
    """One row for each function, best mean first; deviation and interval need two seeds."""
    groups = defaultdict(list)
    for record in sorted(records, key=lambda record: record.config["seed"]):
        groups[record.function].append(record)
    result = []
    for function, group in groups.items():
        values = [record.summary["metrics"][metric] for record in group]
        mean = mean_over_seeds(values)
        result.append(
            {
                "function": function,
                "seeds": " ".join(str(record.config["seed"]) for record in group),
                "mean": f"{mean.mean:.2f}",
                "standard deviation": "" if mean.deviation is None else f"{mean.deviation:.2f}",
                "95% interval": "{:.2f} to {:.2f}".format(*mean.interval) if mean.interval else "",
                "values": " ".join(f"{value:.2f}" for value in values),
                "parameters": str(group[0].summary["parameters"]["total"]),
                "revision": " ".join(sorted({str(record.summary["revision"])[:12] for record in group})),
            }
        )
    return sorted(result, key=lambda row: float(row["mean"]), reverse=higher_is_better)


def experiments(records: Sequence[Run]) -> dict[str, list[Run]]:
    """The records of each experiment.

    Raises UserError if runs of one experiment differ in more than their reweighting and their seed, or in their metric.
    """
    result = defaultdict(list)
    for record in records:
        result[record.experiment].append(record)
    for experiment, group in result.items():
        if any(record.setting != group[0].setting for record in group):
            raise UserError(
                f"results/runs: the runs of {experiment} differ in more than their function and their seed; "
                "give the others a file with an experiment name of its own in configs/experiment/"
            )
        metric = group[0].summary["metric"]
        if any(record.summary["metric"] != metric for record in group):
            raise UserError(f"results/runs: the runs of {experiment} were not scored by one metric, {metric}")
    return result


def tables(records: Sequence[Run]) -> Iterator[Output]:
    """A table of each experiment, as CSV and Markdown. Raises UserError as ``experiments`` does."""
    for experiment, group in experiments(records).items():
        headline = HEADLINE[group[0].config["task"]]
        metric = headline.metric or group[0].summary["metric"]
        text = introduction(group[0], f"{headline.title} ({metric})")
        found = rows(group, metric, headline.higher_is_better)
        yield table(experiment, text, COLUMNS, found, group, csv_only=["revision"])


def write_tables(results: Path) -> Iterator[Path]:
    """Write ``results/tables/EXPERIMENT.csv`` and ``.md`` for every experiment in ``results/runs``."""
    for output in tables(read_runs(results / "runs")):
        yield from save(output, results)


def introduction(record: Run, title: str) -> str:
    return f"""# {record.experiment}: {title}

{" ".join(record.config["description"].split())}

Made by `python -m multimax.suite.report` from `results/runs`; the values are those of \
{HEADLINE[record.config["task"]].of}, one for each seed, with the 95% interval of their mean (Student's t). A name of \
two parts is attention-output.

"""
