"""Tables of final metrics by experiment: each function's mean over seeds, and its paired difference from softmax."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multimax.suite.config import flatten
from multimax.suite.data.fingerprint import difference
from multimax.suite.errors import UserError
from multimax.suite.report.metrics import BASELINE, Headline, headline, possible
from multimax.suite.report.outputs import Output, Row, number, span, table
from multimax.suite.report.settings import description
from multimax.suite.report.statistics import Difference, Mean, holm, mean_over_seeds, paired
from multimax.suite.runs import Run

MEAN = ("mean", "standard deviation", "95% interval")
DIFFERENCE = ("difference", "of the difference", "p", "p Holm")
COLUMNS = ("function", "seeds", *MEAN, "values", *DIFFERENCE, "sign flip", "correlation", "parameters", "revision")


OWN_NAME = (
    "remove one, or train it by a file of its own with an experiment name, in configs/experiment/ or in experiment/ of "
    "--config-dir"
)
"""What to do about runs that cannot share a table."""


@dataclass(frozen=True)
class Comparison:
    """The functions of an experiment: values of ``metric`` by seed, best mean first, and differences from softmax."""

    records: Sequence[Run]
    headline: Headline
    metric: str
    values: Mapping[str, Mapping[int, float]]
    means: Mapping[str, Mean]
    differences: Mapping[str, Difference | None]


def compare(records: Sequence[Run]) -> Comparison:
    """Compare the functions in the runs of one experiment."""
    title = headline(records[0])
    metric = title.metric or records[0].summary["metric"]
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.config["seed"]):
        values[record.function][record.config["seed"]] = record.summary["metrics"][metric]
    means = {function: mean_over_seeds(of.values(), possible(metric)) for function, of in values.items()}
    sign = -1 if title.higher_is_better else 1
    order = sorted(values, key=lambda function: sign * means[function].mean)
    differences = {
        function: paired(values[function], values.get(BASELINE, {})) for function in order if function != BASELINE
    }
    return Comparison(records, title, metric, {function: values[function] for function in order}, means, differences)


def rows(of: Comparison, adjusted: Mapping[str, float]) -> list[Row]:
    """One row per function; deviation and interval need two seeds. ``adjusted`` are Holm's p-values."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for record in of.records:
        groups[record.function].append(record)
    return [
        {
            "function": function,
            "seeds": " ".join(map(str, values)),
            **mean_cells(of.means[function]),
            "values": " ".join(map(number, values.values())),
            **difference_cells(of.differences.get(function), adjusted.get(function)),
            "parameters": str(groups[function][0].summary["parameters"]["total"]),
            "revision": " ".join(sorted({str(record.summary["revision"])[:12] for record in groups[function]})),
        }
        for function, values in of.values.items()
    ]


def adjusted_p(compared: Mapping[str, Comparison]) -> dict[tuple[str, str], float]:
    """The p-value of each function's difference from softmax, by experiment, adjusted over all experiments."""
    return holm_of({(name, key): of for name, by in compared.items() for key, of in by.differences.items()})


def holm_of(differences: Mapping[Any, Difference | None]) -> dict[Any, float]:
    """The p-values of the differences that have one, adjusted as one family."""
    tested = {key: of.p for key, of in differences.items() if of is not None and of.p is not None}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def mean_cells(of: Mean) -> Row:
    return dict(zip(MEAN, (number(of.mean), number(of.deviation), span(of.interval)), strict=True))


def difference_cells(of: Difference | None, adjusted: float | None) -> Row:
    if of is None:
        return {}
    return {
        "difference": number(of.mean, "+"),
        "of the difference": span(of.interval, "+"),
        "p": number(of.p, digits=3),
        "p Holm": number(adjusted, digits=3),
        "sign flip": number(of.p_sign_flip, digits=3),
        "correlation": number(of.correlation, "+"),
    }


def experiments(records: Sequence[Run]) -> dict[str, list[Run]]:
    """The records of each experiment.

    Raises UserError if an experiment's runs differ in more than reweighting and seed, such as in their data, where
    known, or their metric.
    """
    result = defaultdict(list)
    for record in records:
        result[record.experiment].append(record)
    for experiment, group in result.items():
        for record in group:
            if differs := apart(record, group[0]):
                raise UserError(
                    f"results/runs: {record.name} and {group[0].name} of the same experiment, {experiment}, differ in "
                    f"more than their function and their seed ({differs}); {OWN_NAME}"
                )
        first, *others = [record for record in group if record.data is not None] or group[:1]
        for record in others:
            if differs := difference(record.data or {}, first.data or {}, f"in {first.name}"):
                raise UserError(
                    f"results/runs: {record.name} is of other data than {first.name} of the same experiment "
                    f"({differs}); {OWN_NAME}"
                )
        metric = group[0].summary["metric"]
        if any(record.summary["metric"] != metric for record in group):
            raise UserError(f"results/runs: the runs of {experiment} were not scored by one metric, {metric}")
    return result


def apart(record: Run, other: Run) -> str | None:
    """The first key and values in which two runs' settings differ; None if they agree."""
    for key in sorted({*record.setting, *other.setting}):
        if record.setting.get(key, ...) != other.setting.get(key, ...):
            values = [dict(flatten(run.config)).get(key) for run in (record, other)]
            return f"{key}: {values[0]} and {values[1]}"
    return None


def tables(records: Sequence[Run]) -> Iterator[Output]:
    """A table for each experiment, as CSV and Markdown. Raises UserError like ``experiments``."""
    compared = {experiment: compare(group) for experiment, group in experiments(records).items()}
    adjusted = adjusted_p(compared)
    for experiment, of in compared.items():
        own = {function: p for (name, function), p in adjusted.items() if name == experiment}
        text = introduction(of.records[0], f"{of.headline.title} ({of.metric})")
        yield table(
            experiment, text, COLUMNS, rows(of, own), of.records, csv_only=["sign flip", "correlation", "revision"]
        )


def introduction(record: Run, title: str) -> str:
    of = headline(record).of
    return f"""# {record.experiment}: {title}

{description("experiment", record.experiment, record.config["description"])}

Made by `python -m multimax.suite.report` from `results/runs`; the values are those of {of}, one for
each seed, with the 95% interval of their mean (Student's t), cut at what the metric can be. *Difference*: from softmax,
paired by seed, with its own interval and two-sided p-value (paired t), as it is and adjusted for the rows of all
experiments (Holm). A name of two parts is attention-output. The CSV has the sign-flip p-value and the correlation with
softmax over seeds as well.

"""
