"""The sweep of learning rates behind the plan: the result of each arm at each rate, with seeds that confirm nothing."""

from collections.abc import Iterator
from pathlib import Path

import numpy

from multimax.suite.plan import TUNING_FROM, Entry, read_plan
from multimax.suite.planned.table import read_table
from multimax.suite.report.findings import sources
from multimax.suite.report.outputs import Output, Row, table

COLUMNS = ("entry", "arm", "rate", "seeds", "measure", "mean", "least", "most", "planned", "at the edge")
TEXT = f"""# Learning rates

Made by `python -m multimax.suite.report` from the runs in `results/planned` with seeds from {TUNING_FROM} on, which
confirm nothing. Small problems are judged by what their comparison measures, on fresh rows; runs of train.py by the
loss on data held out for it. *Planned* marks the rate that `results/plan.yaml` gives the arm, and *at the edge* says
where no smaller or no larger one was tried, so that the best may lie beyond. A mean is nan where a run diverged.

"""


def rates_table(plan: Path, folder: Path) -> Iterator[Output]:
    """The table, if there is a plan."""
    if plan.is_file():
        rows = [row for entry in read_plan(plan).values() for row in sweep(entry, folder)]
        yield table("rates", TEXT, COLUMNS, rows, sources=sources(plan, folder))


def judge(entry: Entry) -> str:
    """The measure that chooses the entry's rates."""
    return "loss" if entry.problem == "train" else next(iter(entry.comparisons[0].margins))


def sweep(entry: Entry, folder: Path) -> Iterator[Row]:
    """A row for each arm and rate that was tried."""
    measure = judge(entry)
    found: dict[tuple[str, float], list[float]] = {}
    for row in read_table(folder / f"{entry.id}.csv"):
        if not row["plan"] and int(row["seed"]) >= TUNING_FROM:
            found.setdefault((row["arm"], float(row["rate"])), []).append(float(row.get(measure) or "nan"))
    arms = list(entry.rates)
    for arm, rate in sorted(found, key=lambda key: (arms.index(key[0]) if key[0] in arms else len(arms), key[1])):
        values = found[arm, rate]
        numbers = {"mean": numpy.mean(values), "least": numpy.min(values), "most": numpy.max(values)}
        planned = entry.revision and entry.rates.get(arm) == rate
        yield {
            "entry": entry.id,
            "arm": arm,
            "rate": f"{rate:g}",
            "seeds": str(len(values)),
            "measure": measure,
            **{name: f"{value:.3g}" for name, value in numbers.items()},
            "planned": "yes" if planned else "",
            "at the edge": edge(rate, [tried for of, tried in found if of == arm]) if planned else "",
        }


def edge(rate: float, tried: list[float]) -> str:
    """Which end of those tried the rate is, if any."""
    ends = {"smallest": min(tried), "largest": max(tried)}
    names = [name for name, end in ends.items() if rate == end]
    return "only one" if len(names) == 2 else "".join(names)
