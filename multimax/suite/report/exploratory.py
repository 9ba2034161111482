"""What ran outside the plan: each function in the small problems, at the best of its tried rates."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

from multimax.suite.figures.forest import Line, forest
from multimax.suite.figures.style import style_of
from multimax.suite.mechanisms import VARIANTS, Problem
from multimax.suite.mechanisms.problem import ATTENTION
from multimax.suite.plan import CONFIRMING_FROM, TUNING_FROM
from multimax.suite.planned.exploratory import best_rates, tried
from multimax.suite.planned.table import measured, read_table
from multimax.suite.report.outputs import Output, Row, picture, table
from multimax.suite.report.statistics import Mean, gain, mean_over_seeds, paired

OURS = "multimax"
TITLE = (OURS, "softmax", "temperature")  # whose means a figure's title has
COLUMNS = (
    "problem", "measure", "function", "rate", "rates tried", "seeds", "mean", "low", "high", "MultiMax less this",
)  # fmt: skip
MOST = {"accuracy": 100.0, "calibration_error": 100.0, **dict.fromkeys(ATTENTION, 1.0)}  # the largest possible mean
CSV_ONLY = ("low", "high")
TEXT = f"""# Exploratory: small problems

Made by `python -m multimax.suite.report` from `results/exploratory`. Nothing here was planned, and nothing is a
verdict: the problems, what they measure and how long they train were chosen while looking at them. What was asked and
found: [experiments/mechanisms](../../experiments/mechanisms/README.md).

Each function runs at the best of the *rates tried*, by its mean over seeds from {TUNING_FROM} on, which are not among
those counted here. *Mean* has the 95% interval over *seeds* (Student's t), cut at what is possible; *MultiMax less
this* is the mean difference over the seeds that both have, with its interval. NAME@N is measured on rows of N.

"""


@dataclass(frozen=True)
class Explored:
    """One problem's runs that count, by function, seed and measure, and the learning rates."""

    path: Path
    problem: Problem
    runs: Mapping[str, Mapping[int, Mapping[str, str]]]
    rates: Mapping[str, float]
    tried: Mapping[str, list[float]]

    @property
    def name(self) -> str:
        return self.path.stem

    def values(self, function: str, measure: str) -> dict[int, float]:
        return {seed: measured(row, measure, self.name) for seed, row in self.runs[function].items()}


def read(path: Path) -> Explored:
    problem, rows = VARIANTS[path.stem].problem, read_table(path)
    rates = best_rates(problem, rows)
    runs: dict[str, dict[int, Mapping[str, str]]] = {name: {} for name in problem.functions()}
    for row in rows:
        arm, rate, seed = row["arm"], float(row["rate"]), int(row["seed"])
        if seed < CONFIRMING_FROM and rate == rates.get(arm):
            runs.setdefault(arm, {})[seed] = row
    there = {name: of for name, of in runs.items() if of}
    return Explored(path, problem, there, rates, {arm: sorted(of) for arm, of in tried(rows, problem.judge).items()})


def explored(folder: Path) -> list[Explored]:
    """The problems with runs of both MultiMax and softmax."""
    return [of for path in sorted(folder.glob("*.csv")) if {OURS, "softmax"} <= (of := read(path)).runs.keys()]


def exploratory_table(folder: Path) -> Iterator[Output]:
    """The table, if anything was explored."""
    if found := explored(folder):
        rows = [row for of in found for row in table_rows(of)]
        yield table("exploratory", TEXT, COLUMNS, rows, sources=[of.path for of in found], csv_only=CSV_ONLY)


def table_rows(of: Explored) -> Iterator[Row]:
    own = [f"{name}@{n}" for name in of.problem.measures for n in of.problem.test_lengths]
    length = of.problem.judge.partition("@")[2]
    for measure in [*own, *(f"{name}@{length}" for name in ATTENTION)]:
        values = {function: of.values(function, measure) for function in of.runs}
        for cells in compared(values, MOST.get(measure.partition("@")[0], inf)):
            function = cells["function"]
            yield {
                "problem": of.name,
                "measure": measure,
                "rate": f"{of.rates[function]:g}",
                "rates tried": ", ".join(f"{rate:g}" for rate in of.tried[function]),
                **cells,
            }


def compared(values: Mapping[str, Mapping[int, float]], most: float) -> Iterator[Row]:
    """The cells of each function from its values by seed, which are between 0 and ``most``."""
    for function, others in values.items():
        found = mean_over_seeds(others.values(), (0.0, most))
        ours = paired(values[OURS], others, (-most, most)) if function != OURS else None
        low, high = (f"{bound:.4g}" for bound in found.interval) if found.interval else ("", "")
        yield {
            "function": function,
            "seeds": str(found.n),
            "mean": with_interval(found),
            "low": low,
            "high": high,
            "MultiMax less this": with_interval(ours),
        }


def with_interval(of: Mean | None) -> str:
    if of is None:
        return ""
    if of.interval is None:
        return f"{of.mean:.4g}"
    low, high = of.interval
    return f"{of.mean:.4g} [{low:.4g} to {high:.4g}]"


def exploratory_figures(folder: Path) -> Iterator[Output]:
    """``exploratory_PROBLEM``: MultiMax's gain over each function in the judging measure, paired by seed."""
    for of in explored(folder):
        judge, groups = of.problem.judge, {f"{of.name}, exploratory": list(lines(of))}
        means = {name: mean_over_seeds(of.values(name, judge).values()).mean for name in TITLE if name in of.runs}
        named = ", ".join(f"{mean:.3g} with {style_of(name).label}" for name, mean in means.items())
        title, axis = f"{judge}: {named}", f"what MultiMax gains in {judge}; better to the right"
        yield picture(f"exploratory_{of.name}", *forest(groups, title, axis), sources=[of.path])


def lines(of: Explored) -> Iterator[Line]:
    ours = of.values(OURS, of.problem.judge)
    for function in of.runs:
        found = gain(of.problem.better, ours, of.values(function, of.problem.judge))
        if function != OURS and found:
            yield Line(style_of(function).label, function, found.pairs, found.mean, found.interval)
