"""The sweep of learning rates.

It shows what was tried, what was chosen, and whether a better rate may lie beyond.
"""

import csv

import pytest
from planned_runs import write

from multimax.suite.mechanisms import PROBLEMS
from multimax.suite.planned.exploratory import best_rates
from multimax.suite.planned.table import read_table, text
from multimax.suite.report.planned_tables import planned_table


def sweep(tmp_path, errors):
    """The table's rows by rate, if softmax had these errors at these rates and 0.01 is planned."""
    path = write(tmp_path, [1.0])
    row = read_table(path)[0] | {"plan": "", "arm": "softmax", "seed": "1000"}
    path.write_text(text([row | {"rate": rate, "error@32": error} for rate, error in errors.items()]))
    (output,) = planned_table("rates", tmp_path / "plan.yaml", tmp_path)
    return {row["rate"]: row for row in csv.DictReader(output.files[".csv"].decode().splitlines())}


@pytest.mark.parametrize(
    ("rates", "edge"),
    [
        (("0.003", "0.01", "0.03"), ""),
        (("0.01", "0.03"), "smallest"),
        (("0.003", "0.01"), "largest"),
        (("0.01",), "only one"),
    ],
)
def test_a_chosen_rate_at_the_edge_of_what_was_tried_is_marked(tmp_path, rates, edge):
    rows = sweep(tmp_path, dict.fromkeys(rates, "0.5"))
    assert {rate: row["at the edge"] for rate, row in rows.items()} == dict.fromkeys(rates, "") | {"0.01": edge}


def test_a_rate_at_which_a_run_diverged_is_shown_and_never_the_best(tmp_path):
    rows = sweep(tmp_path, {"0.003": "nan", "0.01": "0.5", "0.03": "inf"})
    assert [rows[rate]["mean"] for rate in ("0.003", "0.01", "0.03")] == ["nan", "0.5", "inf"]
    for name, judge, better in (("marked_mean", "error@32", "lower"), ("max_retrieval", "accuracy@256", "higher")):
        problem = PROBLEMS[name]
        assert (problem.judge, problem.better) == (judge, better)
        runs = [
            {"seed": "1000", "arm": "softmax", "rate": rate, judge: value}
            for rate, value in (("1", "nan"), ("2", "0.5"), ("3", "inf"), ("4", ""))
        ]
        assert best_rates(problem, runs) == best_rates(problem, runs[::-1]) == {"softmax": 2.0}


def test_a_seed_that_ran_at_two_revisions_counts_once(tmp_path):
    path = write(tmp_path, [1.0])
    row = read_table(path)[0] | {"plan": "", "arm": "softmax", "rate": "0.01"}
    tried = [("old", "1000", "0.9"), ("new", "1000", "0.9"), ("new", "1001", "0.1")]
    path.write_text(text([row | {"revision": at, "seed": seed, "error@32": error} for at, seed, error in tried]))
    (output,) = planned_table("rates", tmp_path / "plan.yaml", tmp_path)
    (found,) = csv.DictReader(output.files[".csv"].decode().splitlines())
    assert (found["seeds"], found["mean"]) == ("2", "0.5")
    runs = [*read_table(path), row | {"seed": "1000", "rate": "0.03", "error@32": "0.6"}]
    # The mean at 0.01 would be 0.63 if both runs of seed 1000 counted.
    assert best_rates(PROBLEMS["marked_mean"], runs) == {"softmax": 0.01}
