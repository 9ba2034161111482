"""The sweep of learning rates behind the plan: the result of each arm at each rate, with seeds that confirm nothing."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from multimax.suite.plan import TUNING_FROM, Entry, read_plan
from multimax.suite.planned.table import read_table
from multimax.suite.report.findings import sources
from multimax.suite.report.outputs import Output, Row, table

COLUMNS = ("entry", "arm", "rate", "seeds", "measure", "mean", "least", "most", "planned")
TEXT = f"""# Learning rates

Made by `python -m multimax.suite.report` from the runs in `results/planned` with seeds from {TUNING_FROM} on, which
confirm nothing. Small problems are judged by what their comparison measures, on fresh rows; runs of train.py by the
loss on data held out for it. *Planned* marks the rate that `results/plan.yaml` gives the arm.

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
            found.setdefault((row["arm"], float(row["rate"])), []).append(float(row[measure]))
    arms = list(entry.rates)
    for arm, rate in sorted(found, key=lambda key: (arms.index(key[0]) if key[0] in arms else len(arms), key[1])):
        values = found[arm, rate]
        numbers = zip(("mean", "least", "most"), (fmean(values), min(values), max(values)), strict=True)
        yield {
            "entry": entry.id,
            "arm": arm,
            "rate": f"{rate:g}",
            "seeds": str(len(values)),
            "measure": measure,
            **{name: f"{value:.3g}" for name, value in numbers},
            "planned": "yes" if entry.revision and entry.rates.get(arm) == rate else "",
        }
