"""Exploratory runs count at the rate that other seeds chose, and are paired."""

import csv
import random

import pytest

from multimax.suite.mechanisms.problem import ATTENTION
from multimax.suite.planned.table import text
from multimax.suite.report.exploratory import exploratory_figures, exploratory_table

MEASURES = [f"{name}@10" for name in ("accuracy", "loss", "calibration_error", *ATTENTION)]
RIGHT = {"softmax": 70.0, "multimax": 90.0}


@pytest.fixture
def folder(tmp_path):
    """Two functions, each better at 0.01 than at 0.1; only seeds 0 to 4 at 0.01 should count."""
    draw = random.Random(0)
    rows = [
        {"plan": "", "revision": "abc", "arm": arm, "rate": rate, "seed": str(seed)}
        | dict.fromkeys(MEASURES, str(right + seed % 1000 - 50 * (rate == "0.1") + draw.gauss(0, 0.1)))
        for arm, right in RIGHT.items()
        for rate in ("0.01", "0.1")
        for seed in (0, 1, 2, 3, 4, 1000, 1001)
    ]
    (tmp_path / "label_noise_40.csv").write_text(text(rows))
    return tmp_path


def test_means_are_of_the_chosen_rate_and_differences_of_the_same_seeds(folder):
    (output,) = exploratory_table(folder)
    rows = list(csv.DictReader(output.files[".csv"].decode().splitlines()))
    assert {row["measure"] for row in rows} == set(MEASURES)
    for row in rows:
        kept = [row[key] for key in ("problem", "rate", "rates tried", "seeds")]
        assert kept == ["label_noise_40", "0.01", "0.01, 0.1", "5"]
        mean = float(row["mean"].split(" [")[0])
        assert mean == pytest.approx(RIGHT[row["function"]] + 2, abs=0.3)
        if row["measure"] == "accuracy@10":
            assert float(row["low"]) < mean < float(row["high"]) < 100
        if row["function"] == "softmax":
            assert float(row["MultiMax less this"].split(" [")[0]) == pytest.approx(20, abs=0.3)


def test_the_title_is_what_was_found(folder):
    (output,) = exploratory_figures(folder)
    assert output.name == "figures/exploratory_label_noise_40"
    means = [float(row.split(",")[-1]) for row in output.files[".csv"].decode().splitlines() if ",mean," in row]
    assert means == [pytest.approx(20, abs=0.3)]


def test_without_runs_there_is_no_table(tmp_path):
    assert not [*exploratory_table(tmp_path), *exploratory_figures(tmp_path)]
