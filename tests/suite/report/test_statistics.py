"""Intervals, tests and their power, against SciPy, closed examples and simulation."""

import itertools
import math

import numpy
import pytest
from scipy import stats

from multimax.suite.report.statistics import (
    DRAWS,
    detectable,
    holm,
    mean_over_seeds,
    paired,
    pairs_needed,
    power,
    sign_flip,
)

OURS = {0: 48.79, 1: 47.54, 2: 48.97, 5: 40.0}
OTHERS = {0: 48.64, 1: 47.34, 2: 46.96, 7: 90.0}


def test_a_paired_test_is_scipys_over_the_seeds_that_both_have():
    difference = paired(OURS, OTHERS)
    ours, others = [[of[seed] for seed in (0, 1, 2)] for of in (OURS, OTHERS)]
    reference = stats.ttest_rel(ours, others)
    assert difference.seeds == (0, 1, 2)
    assert difference.p == pytest.approx(reference.pvalue)
    assert difference.interval == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert difference.correlation == pytest.approx(stats.pearsonr(ours, others).statistic)
    assert difference.p_sign_flip == 0.25, "the least that three pairs of one sign can have"


def test_the_interval_holds_the_mean_as_often_as_it_says():
    """Even where it is cut off at the limits of what is possible."""
    generator = numpy.random.default_rng(0)
    samples = generator.normal(3.0, 2.0, (4000, 3))
    for possible in ((-math.inf, math.inf), (2.5, 3.5)):
        intervals = [mean_over_seeds(row, possible).interval for row in samples.tolist()]
        held = [low <= 3.0 <= high for low, high in intervals]
        assert numpy.mean(held) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))
        assert all(possible[0] <= low and high <= possible[1] for low, high in intervals)


def test_an_accuracy_is_never_above_a_hundred_percent():
    low, high = mean_over_seeds([97.2, 99.9, 95.0], (0.0, 100.0)).interval
    assert (low, high) == (mean_over_seeds([97.2, 99.9, 95.0]).interval[0], 100.0)


def test_one_value_has_no_spread_and_none_no_mean():
    single = paired({0: 3.0}, {0: 1.0, 1: 2.0})
    assert (single.mean, single.deviation, single.interval, single.p) == (2.0, None, None, None)
    assert paired({0: 1.0}, {1: 1.0}) is None
    with pytest.raises(ValueError, match="no values"):
        mean_over_seeds([])


def test_equal_differences_decide():
    constant = paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert constant.interval == (1.0, 1.0)
    assert constant.p == 0.0
    assert pairs_needed(1.0, 0.0) == 2
    none = paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (none.p, none.p_sign_flip) == (1.0, 1.0)
    assert paired({0: 1.0, 1: 1.0}, {0: 1.0, 1: 2.0}).correlation is None


@pytest.mark.parametrize("n", [1, 3, 8, 12])
def test_a_sign_flip_tries_every_pattern(n):
    values = numpy.random.default_rng(n).normal(0.6, 1.0, n).round(1)  # rounded: some patterns tie
    patterns = numpy.array(list(itertools.product((-1, 1), repeat=n))) @ values
    expected = numpy.mean(numpy.abs(patterns).round(6) >= round(abs(values.sum()), 6))
    assert sign_flip(values.tolist()) == expected
    if n > 1:
        scipys = stats.permutation_test(
            (values,), numpy.mean, permutation_type="samples", n_resamples=2**n, vectorized=False
        )
        assert sign_flip(values.tolist()) == pytest.approx(scipys.pvalue)


def test_a_sign_flip_of_many_pairs_is_drawn_and_repeats():
    values = numpy.random.default_rng(3).normal(0.35, 1.0, 30)
    drawn = sign_flip(values.tolist())
    assert drawn == sign_flip(values.tolist())
    assert drawn == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)
    assert sign_flip([1.0] * 30) == pytest.approx(1 / (DRAWS + 1)), "never zero"


def test_holm_is_that_of_a_closed_example():
    """R's example p.adjust(c(.01, .02, .03, .04), "holm"), and one in mixed order."""
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.04, 0.005, 0.6, 0.3]) == pytest.approx([0.12, 0.02, 0.6, 0.6])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == pytest.approx([1.0, 1.0])


def test_holm_keeps_the_family_to_its_level():
    found = numpy.random.default_rng(0).uniform(size=(4000, 5))
    false = numpy.mean([min(holm(row)) <= 0.05 for row in found.tolist()])
    assert false == pytest.approx(1 - 0.99**5, abs=4 * math.sqrt(0.05 * 0.95 / 4000))


def test_power_is_how_often_the_test_finds_the_effect():
    samples = numpy.random.default_rng(0).normal(0.8, 1.1, (20_000, 12))
    found = numpy.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05)
    assert power(0.8, 1.1, 12) == pytest.approx(found, abs=0.01)
    assert power(0.0, 1.1, 12) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("effect", "level", "n"),
    # G*Power 3.1, two-sided paired t, 80%
    [(0.5, 0.05, 34), (0.8, 0.05, 15), (0.2, 0.05, 199), (0.5, 0.01, 51)],
)
def test_pairs_needed_are_those_of_a_published_table(effect, level, n):
    assert pairs_needed(effect, 1.0, level) == n
    assert power(effect, 1.0, n, level) >= 0.8 > power(effect, 1.0, n - 1, level)


def test_no_effect_needs_more_pairs_than_anybody_has():
    assert pairs_needed(0.0, 1.0) is None
    assert pairs_needed(0.0, 0.0) is None


@pytest.mark.parametrize("level", [0.05, 0.00625])
@pytest.mark.parametrize("n", [2, 3, 5, 20, 200])
def test_the_detectable_effect_is_found_four_times_in_five(n, level):
    assert power(detectable(2.5, n, level), 2.5, n, level) == pytest.approx(0.8, abs=1e-6)
