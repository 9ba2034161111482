"""Intervals and paired tests, beside SciPy's own and beside what an interval promises."""

import math

import numpy
import pytest
from scipy import stats

from multimax.suite.report.statistics import half_width, mean_over_seeds, paired, pairs_needed

OURS = {0: 48.79, 1: 47.54, 2: 48.97, 5: 40.0}
OTHERS = {0: 48.64, 1: 47.34, 2: 46.96, 7: 90.0}


def test_a_paired_test_is_scipys_over_the_seeds_that_both_have():
    difference = paired(OURS, OTHERS)
    reference = stats.ttest_rel([OURS[seed] for seed in (0, 1, 2)], [OTHERS[seed] for seed in (0, 1, 2)])
    assert difference.seeds == (0, 1, 2)
    assert difference.p == pytest.approx(reference.pvalue)
    assert difference.interval == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_the_interval_holds_the_mean_as_often_as_it_says():
    generator = numpy.random.default_rng(0)
    samples = generator.normal(3.0, 2.0, (4000, 3))
    held = [low <= 3.0 <= high for low, high in (mean_over_seeds(row).interval for row in samples.tolist())]
    assert numpy.mean(held) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_one_value_has_no_spread_and_none_no_mean():
    single = paired({0: 3.0}, {0: 1.0, 1: 2.0})
    assert (single.mean, single.deviation, single.interval, single.p) == (2.0, None, None, None)
    assert paired({0: 1.0}, {1: 1.0}) is None
    with pytest.raises(ValueError, match="no values"):
        mean_over_seeds([])


def test_equal_differences_decide():
    constant = paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert constant.interval == (1.0, 1.0)
    assert (constant.p, constant.pairs_needed) == (0.0, 2)
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1.0


def test_pairs_needed_is_the_least_that_decides():
    n = pairs_needed(0.8, 1.1)
    assert half_width(1.1, n) < 0.8 <= half_width(1.1, n - 1)
    assert pairs_needed(0.0, 1.0) is None
