"""The table of what MultiMax adds to the time of a training step here, next to what the authors report."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from multimax.suite.report.metrics import BASELINE
from multimax.suite.report.outputs import Output, Row, number, table

COLUMNS = ("model", "batch", "function", "way", "device", "precision", "milliseconds", "over softmax, %", "remark")
TEXT = """# What a training step costs, measured

Made by `python -m multimax.suite.report` from the tables of `results/benchmarks` that time whole training steps: the
median in milliseconds, and by how many percent it is above softmax's on the same machine, run in the same way. The
authors' own numbers are in [`claims_numbers.md`](claims_numbers.md); they do not name the device. These are other
machines and other kernels, so that they are no verdict on those numbers: they say what a function costs here.

"""


def step_overhead(benchmarks: Path) -> Output:
    """The table, from every ``training_steps_*.csv`` in the folder and its machine's record next to it."""
    paths = sorted(benchmarks.glob("training_steps_*.csv"))
    rows = [row for path in paths for row in rows_of(path)]
    sources = [file for path in paths for file in (path, path.with_suffix(".json"))]
    return table("step_overhead", TEXT, COLUMNS, rows, sources=sources)


def rows_of(path: Path) -> Iterator[Row]:
    record = json.loads(path.with_suffix(".json").read_text())
    with path.open(newline="") as file:
        measured = [row for row in csv.DictReader(file) if row["milliseconds"]]
    for row in measured:
        ratio = "" if row["function"] == BASELINE else number(100 * (float(row["ratio"]) - 1), "+", 1)
        yield {
            "model": row["part"],
            "batch": row["case"],
            "function": row["function"],
            "way": row["way"],
            "device": record["device"],
            "precision": record["dtype"],
            "milliseconds": f"{float(row['milliseconds']):.4g}",
            "over softmax, %": ratio,
            "remark": row["note"],
        }
