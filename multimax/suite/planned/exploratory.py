"""Problems outside the plan, which choose learning rates by their own runs and confirm nothing."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from multimax.suite.mechanisms import VARIANTS, Problem
from multimax.suite.plan import CONFIRMING_FROM, TUNING_FROM, Entry

FOLDER = Path("results/exploratory")


def unplanned(name: str, rows: Iterable[Mapping[str, str]]) -> Entry:
    """One of VARIANTS as an entry: every function at the best of its tried rates, NaN if none was tried."""
    of = VARIANTS[name]
    rates = dict.fromkeys(of.problem.functions(), math.nan) | best_rates(of.problem, rows)
    nothing: dict[str, tuple[str, ...]] = {}
    seeds = CONFIRMING_FROM, TUNING_FROM - 1
    return Entry(name, "mechanism", of.problem.name, of.variant, (), (), nothing, rates, *seeds, "", ())


def tried(rows: Iterable[Mapping[str, str]], measure: str) -> dict[str, dict[float, dict[int, float]]]:
    """By arm, rate and seed, ``measure`` in the runs that choose the rates.

    Those have no plan, and seeds from TUNING_FROM on. NaN where a run has none. A seed that ran at two revisions counts
    once.
    """
    found: dict[str, dict[float, dict[int, float]]] = {}
    for row in rows:
        if not row.get("plan") and int(row["seed"]) >= TUNING_FROM:
            of_rate = found.setdefault(row["arm"], {}).setdefault(float(row["rate"]), {})
            of_rate[int(row["seed"])] = float(row.get(measure) or "nan")
    return found


def best_rates(problem: Problem, rows: Iterable[Mapping[str, str]]) -> dict[str, float]:
    """For each arm the rate with the best mean of the judging measure over the seeds from TUNING_FROM on.

    A rate at which a run diverged is worse than any other.
    """
    sign = 1 if problem.better == "higher" else -1

    def merit(values: Iterable[float]) -> float:
        return sign * mean if math.isfinite(mean := fmean(values)) else -math.inf

    found = tried(rows, problem.judge)
    return {arm: max(of, key=lambda rate: merit(of[rate].values())) for arm, of in found.items()}
