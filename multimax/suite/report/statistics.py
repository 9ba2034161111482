"""Means over seeds, and differences between functions that ran with the same seeds.

Runs that share a seed see the same data in the same order from the same initial weights, so that their difference is
free of what the seed alone does. Intervals are Student's, which are right for normal differences at any number of
seeds, and wide for few: with three, 2.5 standard deviations to either side of the mean.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """Of ``n`` values, the mean, and from two values on their sample standard deviation and the mean's interval."""

    n: int
    mean: float
    deviation: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Difference(Mean):
    """A mean of paired differences over ``seeds``, with the two-sided p-value of there being none.

    ``pairs_needed`` is the least number of pairs whose interval would leave zero out if mean and standard deviation
    stayed what they are: a plan for more seeds, not a finding.
    """

    seeds: tuple[int, ...] = ()
    p: float | None = None
    pairs_needed: int | None = None


def mean_over_seeds(values: Iterable[float]) -> Mean:
    """Mean, standard deviation and interval at ``CONFIDENCE``. Raises ValueError without a value."""
    values = list(values)
    if not values:
        raise ValueError("no values to average")
    mean = fmean(values)
    if len(values) == 1:
        return Mean(1, mean)
    deviation = stdev(values)
    half = half_width(deviation, len(values))
    return Mean(len(values), mean, deviation, (mean - half, mean + half))


def paired(ours: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """``ours`` minus ``others``, values by seed, over the seeds that both have; None if they share none."""
    seeds = tuple(sorted(set(ours) & set(others)))
    if not seeds:
        return None
    of = mean_over_seeds(ours[seed] - others[seed] for seed in seeds)
    if of.deviation is None:
        return Difference(of.n, of.mean, seeds=seeds)
    error = of.deviation / math.sqrt(of.n)
    p = float(2 * stats.t.sf(abs(of.mean) / error, of.n - 1)) if error else float(of.mean == 0)
    needed = pairs_needed(of.mean, of.deviation)
    return Difference(of.n, of.mean, of.deviation, of.interval, seeds, p, needed)


def half_width(deviation: float, n: int) -> float:
    """Half the interval of the mean of ``n`` values with this sample standard deviation."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)


def pairs_needed(mean: float, deviation: float, most: int = 1000) -> int | None:
    """Least n whose interval around ``mean`` leaves zero out; None beyond ``most``."""
    counts = range(2, most + 1)  # more pairs, narrower intervals
    found = bisect_right(counts, -abs(mean), key=lambda n: -half_width(deviation, n))
    return counts[found] if found < len(counts) else None
