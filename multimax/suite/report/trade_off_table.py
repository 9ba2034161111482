"""Whether trained attention is both sparser and more multi-modal, in every problem that the plan has run."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from multimax.suite.mechanisms.problem import ATTENTION
from multimax.suite.plan import Entry, read_plan
from multimax.suite.planned.table import measured
from multimax.suite.report.exploratory import with_interval
from multimax.suite.report.findings import Rows, confirming, shown, sources
from multimax.suite.report.outputs import Output, Row, table
from multimax.suite.report.statistics import Interval, mean_over_seeds, paired

OURS = "multimax"
UNIT: Interval = (0.0, 1.0)
COLUMNS = ("entry", "measure", "function", "seeds", "mean", "MultiMax less this")
TEXT = """# Sparsity and multi-modality of trained attention

Made by `python -m multimax.suite.report` from the confirmatory runs in `results/planned`. The paper claims both at
once: a higher Gini index (*gini*) and a higher M (*multi_modality*). For Imagenette this is a primary comparison, with
its verdict in [findings.md](findings.md); all that stands here is **exploratory**, whatever the interval, because no
plan names it.

Each function runs at its planned rate, and is here once all of its planned seeds are, as are those that decide the
entry: nobody looks before. The weights are those of all rows of the evaluation set, and the numbers are
means over rows and layers; *mass_below* is the weight of the entries with a score below their row's mean. NAME@N is
measured on rows of N items. *Mean* has the 95% interval over *seeds* (Student's t); *MultiMax less this* is the mean
difference over the seeds that both have, with its interval.

"""


def trade_off_table(plan: Path, folder: Path) -> Iterator[Output]:
    """The table; none where there is no plan."""
    if plan.is_file():
        rows = [row for entry in read_plan(plan).values() for row in table_rows(entry, confirming(entry, folder))]
        yield table("trade_off", TEXT, COLUMNS, rows, sources=sources(plan, folder))


def table_rows(entry: Entry, runs: Rows) -> Iterator[Row]:
    """A row for each measure and function with all of its seeds; small problems at their comparison's length."""
    arms = shown(entry, runs)
    if OURS not in arms:
        return
    first = next(iter(entry.comparisons[0].margins))
    for measure in ATTENTION if entry.problem == "train" else [f"{of}@{first.partition('@')[2]}" for of in ATTENTION]:
        values: dict[str, dict[int, float]] = {}
        for arm, seed in product(arms, entry.seeds):
            if (row := runs[arm, seed]).get(measure):
                values.setdefault(arm, {})[seed] = measured(row, measure, entry.id)
        for arm in values if OURS in values else ():
            difference = paired(values[OURS], values[arm]) if arm != OURS else None
            yield {
                "entry": entry.id,
                "measure": measure,
                "function": arm,
                "seeds": str(len(values[arm])),
                "mean": with_interval(mean_over_seeds(values[arm].values(), UNIT)),
                "MultiMax less this": with_interval(difference) if difference else "",
            }
