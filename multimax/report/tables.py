"""Tables of final metrics: each function's mean and standard deviation over its seeds, within one experiment."""

import csv
import io
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from multimax.engine.run_folder import write_atomic
from multimax.errors import UserError
from multimax.report.records import Record, read_records

HEADLINE = {"deit": ("top-1 accuracy, %", True), "lm": ("perplexity", False)}
"""For each task how to call its metric, and whether more is better."""

COLUMNS = ("function", "seeds", "mean", "standard deviation", "values", "parameters", "revision")


def rows(records: Sequence[Record], metric: str, higher_is_better: bool) -> list[dict[str, str]]:
    """One row for each function, best mean first; the sample standard deviation needs two seeds."""
    groups = defaultdict(list)
    for record in sorted(records, key=lambda record: record.config["seed"]):
        groups[record.function].append(record)
    result = []
    for function, group in groups.items():
        values = [record.summary["metrics"][metric] for record in group]
        result.append(
            {
                "function": function,
                "seeds": " ".join(str(record.config["seed"]) for record in group),
                "mean": f"{statistics.mean(values):.2f}",
                "standard deviation": f"{statistics.stdev(values):.2f}" if len(values) > 1 else "",
                "values": " ".join(f"{value:.2f}" for value in values),
                "parameters": str(group[0].summary["parameters"]["total"]),
                "revision": " ".join(sorted({str(record.summary["revision"])[:12] for record in group})),
            }
        )
    return sorted(result, key=lambda row: float(row["mean"]), reverse=higher_is_better)


def write_tables(results: Path) -> Iterator[Path]:
    """Write ``results/tables/EXPERIMENT.csv`` and ``.md`` for every experiment in ``results/runs``.

    Raises UserError if runs of one experiment differ in more than their reweighting and their seed.
    """
    experiments = defaultdict(list)
    for record in read_records(results / "runs"):
        experiments[record.experiment].append(record)
    (results / "tables").mkdir(parents=True, exist_ok=True)
    for experiment, records in experiments.items():
        if any(record.setting != records[0].setting for record in records):
            raise UserError(
                f"results/runs: the runs of {experiment} differ in more than their function and their seed; "
                "give the others a file with an experiment name of its own in configs/experiment/"
            )
        title, higher_is_better = HEADLINE[records[0].config["task"]]
        metric = records[0].summary["metric"]
        if any(record.summary["metric"] != metric for record in records):
            raise UserError(f"results/runs: the runs of {experiment} were not scored by one metric, {metric}")
        table = rows(records, metric, higher_is_better)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        yield write(results / "tables" / f"{experiment}.csv", text.getvalue())
        yield write(results / "tables" / f"{experiment}.md", markdown(records[0], f"{title} ({metric})", table))


def write(path: Path, text: str) -> Path:
    write_atomic(path, text)
    return path


def markdown(record: Record, title: str, table: Sequence[dict[str, str]]) -> str:
    columns = COLUMNS[:-1]
    lines = [
        f"# {record.experiment}: {title}",
        "",
        " ".join(record.config["description"].split()),
        "",
        "Made by `python -m multimax.report tables` from `results/runs`; the values are those of the last step, one "
        "for each seed. A name of two parts is attention-output.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row[column] for column in columns) + " |" for row in table),
        "",
    ]
    return "\n".join(lines)
