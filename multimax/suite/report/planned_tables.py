"""Tables of the plan's runs besides the findings: tried rates, convergence, trained attention, learned modulators."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy
import torch

from multimax.formulas.multimax import seglu_formula
from multimax.suite.mechanisms.problem import ATTENTION
from multimax.suite.plan import TUNING_FROM, Entry, read_plan
from multimax.suite.planned.exploratory import tried
from multimax.suite.planned.table import measured, read_table
from multimax.suite.report.exploratory import OURS, compared
from multimax.suite.report.findings import confirming, shown, sources
from multimax.suite.report.outputs import Output, Row, table

RATES = ("entry", "arm", "rate", "seeds", "measure", "mean", "least", "most", "planned", "at the edge")
RATES_TEXT = f"""# Learning rates

Made by `python -m multimax.suite.report` from the runs in `results/planned` with seeds from {TUNING_FROM} on, which
confirm nothing. Small problems are judged by what their comparison measures, on fresh rows; runs of train.py by the
loss on data held out for it. *Planned* marks the rate that `results/plan.yaml` gives the arm, and *at the edge* says
where no smaller or no larger one was tried, so that the best may lie beyond. A mean is nan where a run diverged.

"""
CONVERGENCE = ("entry", "function", "seeds", "measure", "median", "least", "most", "r", "last / third quarter")
CONVERGENCE_TEXT = """# Convergence of the decided runs

Made by `python -m multimax.suite.report` from the confirmatory runs in `results/planned`: what each entry's
comparisons measure, as median, least and most over *seeds*, which shows errors that are skewed or of two kinds. *r* is
the correlation over seeds with MultiMax: the higher, the more noise does pairing by seed take out.
*Last / third quarter* is the mean training loss over the last quarter of the steps, divided by that over the third:
median (least to most). Near 1 the loss stood still. Each function is here once all of its planned seeds are, as are
those that decide the entry.

"""
TRADE_OFF = ("entry", "measure", "function", "seeds", "mean", "MultiMax less this")
TRADE_OFF_TEXT = """# Sparsity and multi-modality of trained attention

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
EQUAL_RATES = ("entry", "measure", "rate", "function", "seeds", "mean", "MultiMax less this")
EQUAL_RATES_TEXT = f"""# Sparsity and multi-modality at equal learning rates

Made by `python -m multimax.suite.report` from the runs in `results/planned` with seeds from {TUNING_FROM} on, which
chose the learning rates and confirm nothing: **exploratory**. Where functions run at different rates, as they do in
[trade_off.md](trade_off.md), part of a difference may be the rate's. Here each rate has the functions that were tried
at it. *Mean* and *MultiMax less this* are as there; the interval wants two seeds.

"""
SLOPES = ("entry", "layers", "seeds", "steep below", "flat above", "both")
STEEP_AT, FLAT_AT = -4.0, 4.0
SLOPES_TEXT = f"""# Form of the modulators that were learned

Made by `python -m multimax.suite.report` from MultiMax's parameters after the confirmatory runs in `results/planned`,
once all that decide the entry are there; **exploratory**. The paper wants small scores pushed down, a slope of SegLU
above 1 at low scores (*steep below*, at {STEEP_AT:g}), and large ones drawn together, a slope below 1 at high scores
(*flat above*, at {FLAT_AT:g}). A temperature is steep, or flat, at both ends. Each is counted over *layers* times
*seeds*.

"""


def planned_table(name: str, plan: Path, folder: Path) -> Iterator[Output]:
    """One of TABLES, with the rows of all entries; none without a plan."""
    if plan.is_file():
        text, columns, rows_of = TABLES[name]
        rows = [row for entry in read_plan(plan).values() for row in rows_of(entry, folder)]
        yield table(name, text, columns, rows, sources=sources(plan, folder))


def rates(entry: Entry, folder: Path) -> Iterator[Row]:
    """A row for each arm and rate that was tried."""
    measure = "loss" if entry.problem == "train" else next(iter(entry.comparisons[0].margins))
    found = tried(read_table(folder / f"{entry.id}.csv"), measure)
    for arm, rate in [(of, rate) for of in in_order(entry, found) for rate in sorted(found[of])]:
        values = list(found[arm][rate].values())
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
            "at the edge": edge(rate, [*found[arm]]) if planned else "",
        }


def in_order(entry: Entry, arms: Iterable[str]) -> list[str]:
    """The plan's arms first, as it has them."""
    planned = list(entry.rates)
    return sorted(arms, key=lambda arm: planned.index(arm) if arm in planned else len(planned))


def edge(rate: float, tried: list[float]) -> str:
    """Which end of the tried rates this one is, if any."""
    ends = {"smallest": min(tried), "largest": max(tried)}
    names = [name for name, end in ends.items() if rate == end]
    return "only one" if len(names) == 2 else "".join(names)


def convergence(entry: Entry, folder: Path) -> Iterator[Row]:
    runs = confirming(entry, folder)
    for arm in shown(entry, runs):
        of, ours = ([runs[name, seed] for seed in entry.seeds] for name in (arm, OURS))
        for measure, scale in {name: each.scale for each in entry.comparisons for name in each.margins}.items():
            values, others = ([measured(row, measure, entry.id) for row in rows] for rows in (of, ours))
            numbers = {"median": numpy.median(values), "least": min(values), "most": max(values)}
            yield {
                "entry": entry.id,
                "function": arm,
                "seeds": str(len(of)),
                "measure": measure,
                **{name: f"{value:.3g}" for name, value in numbers.items()},
                "r": "" if arm == OURS else correlation(values, others, scale),
                "last / third quarter": fall(of),
            }


def correlation(values: Sequence[float], others: Sequence[float], scale: str) -> str:
    """Pearson's, on the comparison's scale. Empty for fewer than three, or where one never changes."""
    both = numpy.log([values, others]) if scale == "log" else numpy.array([values, others])
    return f"{numpy.corrcoef(both)[0, 1]:.2f}" if len(values) > 2 and both.std(1).all() else ""


def fall(runs: Sequence[Mapping[str, str]]) -> str:
    """How the loss fell; empty if a run was too short to have quarters."""
    third, last = (
        numpy.array([float(row.get(name) or "nan") for row in runs]) for name in ("third_quarter", "last_quarter")
    )
    with numpy.errstate(divide="ignore", invalid="ignore"):
        ratios = last / third
    if not numpy.isfinite(ratios).all():
        return ""
    return f"{numpy.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def trade_off(entry: Entry, folder: Path) -> Iterator[Row]:
    """A row for each measure and function with all of its seeds; small problems at their comparison's length."""
    runs = confirming(entry, folder)
    arms = shown(entry, runs)
    length = next(iter(entry.comparisons[0].margins)).partition("@")[2]
    for measure in ATTENTION if entry.problem == "train" else [f"{of}@{length}" for of in ATTENTION]:
        values: dict[str, dict[int, float]] = {}
        for arm, seed in product(arms, entry.seeds):
            if (row := runs[arm, seed]).get(measure):
                values.setdefault(arm, {})[seed] = measured(row, measure, entry.id)
        if OURS in values:
            for row in compared(values, most=1.0):
                yield {"entry": entry.id, "measure": measure, **row}


def equal_rates(entry: Entry, folder: Path) -> Iterator[Row]:
    """A row for each measure, rate and function, of entries that train a model; without runs that diverged."""
    rows = read_table(folder / f"{entry.id}.csv") if entry.problem == "train" else []
    for measure in ("gini", "multi_modality"):
        found = tried(rows, measure)
        for rate in sorted({rate for of in found.values() for rate in of}):
            of_rate = {arm: found[arm].get(rate, {}) for arm in in_order(entry, found)}
            finite = {arm: {seed: of[seed] for seed in of if math.isfinite(of[seed])} for arm, of in of_rate.items()}
            there = {arm: of for arm, of in finite.items() if of}
            if OURS in there and len(there) > 1:
                for cells in compared(there, most=1.0):
                    yield {"entry": entry.id, "measure": measure, "rate": f"{rate:g}", **cells}


def slopes(entry: Entry, folder: Path) -> Iterator[Row]:
    runs = confirming(entry, folder)
    if entry.problem != "train" or OURS not in shown(entry, runs):
        return
    of = [runs[OURS, seed] for seed in entry.seeds]
    layers = [column.partition(":")[2] for column in of[0] if column.startswith("ranges.0:") and of[0][column]]
    steep, flat = torch.tensor([ends(row, layer) for row in of for layer in layers]).T
    total = len(of) * len(layers)
    counts = {"steep below": steep > 1, "flat above": flat < 1, "both": (steep > 1) & (flat < 1)}
    yield {
        "entry": entry.id,
        "layers": str(len(layers)),
        "seeds": str(len(of)),
        **{name: f"{int(found.sum())} of {total}" for name, found in counts.items()},
    }


def ends(row: Mapping[str, str], layer: str) -> list[float]:
    """SegLU's slopes at STEEP_AT and FLAT_AT, by the parameters of second order in a run's row."""
    ranges, ts = (
        torch.tensor([float(row[f"{name}.{i}:{layer}"]) for i in range(4)], dtype=torch.float64)
        for name in ("ranges", "ts")
    )
    x = torch.tensor([STEEP_AT, FLAT_AT], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(seglu_formula(x, ranges, ts).sum(), x)
    return list(slope.tolist())


TABLES: dict[str, tuple[str, Sequence[str], Callable[[Entry, Path], Iterator[Row]]]] = {
    "rates": (RATES_TEXT, RATES, rates),
    "convergence": (CONVERGENCE_TEXT, CONVERGENCE, convergence),
    "trade_off": (TRADE_OFF_TEXT, TRADE_OFF, trade_off),
    "equal_rates": (EQUAL_RATES_TEXT, EQUAL_RATES, equal_rates),
    "modulators": (SLOPES_TEXT, SLOPES, slopes),
}
