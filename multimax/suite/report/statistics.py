"""Means over seeds, differences between functions that ran with the same seeds, and how many seeds a test needs.

Runs that share a seed start from the same weights and see the same data in the same order. Whether that makes their
difference less noisy depends on the data: the correlation over seeds shows it, and may be negative.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import correlation, fmean, stdev

import numpy
from scipy import optimize, stats

CONFIDENCE = 0.95
LEVEL = 0.05
POWER = 0.8
EXACT = 20  # most pairs for which every pattern of signs is tried, 2^20 of them
DRAWS = 100_000  # patterns beyond that

Interval = tuple[float, float]


@dataclass(frozen=True)
class Mean:
    """The mean of ``n`` values; with two or more, also their sample standard deviation and the mean's interval."""

    n: int
    mean: float
    deviation: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Difference(Mean):
    """The mean of the paired differences ``pairs`` over ``seeds``, with two-sided p-values of no difference.

    ``p`` is from the paired t test, ``p_sign_flip`` from ``sign_flip``; ``correlation`` is Pearson's between the two
    functions over seeds, None if one of them does not vary.
    """

    seeds: tuple[int, ...] = ()
    pairs: tuple[float, ...] = ()
    p: float | None = None
    p_sign_flip: float | None = None
    correlation: float | None = None


def mean_over_seeds(values: Iterable[float], possible: Interval = (-math.inf, math.inf)) -> Mean:
    """Mean, standard deviation and interval at ``CONFIDENCE``. Raises ValueError if there are no values.

    The interval is cut to the ``possible`` values, such as accuracies up to 100%: the true mean is one of them, so the
    interval contains it as often as before.
    """
    values = list(values)
    if not values:
        raise ValueError("no values to average")
    mean = fmean(values)
    if len(values) == 1:
        return Mean(1, mean)
    deviation = stdev(values)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    low, high = possible
    return Mean(len(values), mean, deviation, (max(low, mean - half), min(high, mean + half)))


def paired(
    ours: Mapping[int, float], others: Mapping[int, float], possible: Interval = (-math.inf, math.inf)
) -> Difference | None:
    """``ours`` minus ``others``, values by seed, over the seeds both have; None if they share none.

    The interval is cut to the ``possible`` differences, as in ``mean_over_seeds``.
    """
    seeds = tuple(sorted(set(ours) & set(others)))
    if not seeds:
        return None
    pairs = tuple(ours[seed] - others[seed] for seed in seeds)
    of = mean_over_seeds(pairs, possible)
    if of.deviation is None:
        return Difference(of.n, of.mean, seeds=seeds, pairs=pairs)
    error = of.deviation / math.sqrt(of.n)
    p = float(2 * stats.t.sf(abs(of.mean) / error, of.n - 1)) if error else float(of.mean == 0)
    both = [[values[seed] for seed in seeds] for values in (ours, others)]
    shared = correlation(*both) if all(len(set(values)) > 1 for values in both) else None
    return Difference(of.n, of.mean, of.deviation, of.interval, seeds, pairs, p, sign_flip(pairs), shared)


def gain(better: str, ours: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """What ``ours`` gain on ``others``, positive if they are better; ``better`` is "higher" or "lower"."""
    return paired(ours, others) if better == "higher" else paired(others, ours)


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p-value of the mean difference, if each difference might as well have had the other sign.

    It does not assume normal differences. Up to ``EXACT`` pairs it is exact: with n pairs it is at least 2^(1 - n), so
    with fewer than six it never falls below .05. Beyond, it is estimated from ``DRAWS`` random patterns.
    """
    values = numpy.asarray(differences, dtype=float)
    if len(values) <= EXACT:
        sums = numpy.zeros(1)
        for value in values:
            sums = numpy.concatenate([sums + value, sums - value])
    else:
        signs = numpy.random.default_rng(0).choice([-1.0, 1.0], (DRAWS, len(values)))
        sums = numpy.append(signs @ values, values.sum())
    # Patterns that give the observed sum, added in another order, count as equal to it.
    return float(numpy.mean(numpy.abs(sums) >= abs(values.sum()) - 1e-12 * numpy.abs(values).sum()))


def holm(p: Sequence[float]) -> list[float]:
    """p-values of a family of tests, adjusted so that the probability of any false finding is at most the level.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    adjusted, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = least
    return adjusted


def power(effect: float, deviation: float, pairs: int, level: float = LEVEL) -> float:
    """Probability that a two-sided paired t test at ``level`` finds a true mean difference of ``effect``.

    ``deviation`` is the standard deviation of the differences.
    """
    df, shift = pairs - 1, abs(effect) / deviation * math.sqrt(pairs)
    beyond = stats.t.isf(level / 2, df)
    below = 1 - stats.nct.sf(-beyond, df, shift)  # nct.cdf is NaN that far out
    return float(stats.nct.sf(beyond, df, shift) + below)


def pairs_needed(effect: float, deviation: float, level: float = LEVEL) -> int | None:
    """The fewest pairs for which ``power`` is ``POWER``; None beyond a thousand."""
    if not deviation:
        return 2 if effect else None
    return next((n for n in range(2, 1001) if power(effect, deviation, n, level) >= POWER), None)


def detectable(deviation: float, pairs: int, level: float = LEVEL) -> float:
    """The true difference, of either sign, that this many pairs detect with a probability of ``POWER``."""
    upper = 1.0
    while power(upper, 1.0, pairs, level) < POWER:
        upper *= 2
    return deviation * float(optimize.brentq(lambda effect: power(effect, 1.0, pairs, level) - POWER, 0.0, upper))
