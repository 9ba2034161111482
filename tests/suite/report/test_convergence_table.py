"""How far the runs of decided entries had converged; others have no row."""

import csv
import math

from planned_runs import SEEDS, write
from scipy import stats

from multimax.suite.planned.table import read_table, text
from multimax.suite.report.planned_tables import planned_table


def made(tmp_path):
    (output,) = planned_table("convergence", tmp_path / "plan.yaml", tmp_path)
    return {row["function"]: row for row in csv.DictReader(output.files[".csv"].decode().splitlines())}


def test_it_has_the_spread_and_how_much_the_loss_fell(tmp_path):
    path = write(tmp_path, [1.0], third_quarter="0.4", last_quarter="0.1")
    rows = read_table(path)
    of = sorted((row for row in rows if row["arm"] == "multimax"), key=lambda row: float(row["error@32"]))
    of[-1]["last_quarter"] = "0.4"
    path.write_text(text(rows))
    row = made(tmp_path)["multimax"]
    assert row["last / third quarter"] == "0.25 (0.25 to 1.00)"
    errors = [float(of["error@32"]) for of in of]
    expected = (errors[4] + errors[5]) / 2, errors[0], errors[-1]
    assert [row[name] for name in ("median", "least", "most")] == [f"{value:.3g}" for value in expected]


def test_it_has_the_correlation_that_pairing_uses(tmp_path):
    errors = {(row["arm"], row["seed"]): float(row["error@32"]) for row in read_table(write(tmp_path, [1.0]))}
    ours, softmax = ([math.log(errors[arm, str(seed)]) for seed in SEEDS] for arm in ("multimax", "softmax"))
    table = made(tmp_path)
    assert (table["softmax"]["r"], table["multimax"]["r"]) == (f"{stats.pearsonr(ours, softmax).statistic:.2f}", "")


def test_short_runs_have_no_quarters_and_unfinished_ones_no_row(tmp_path):
    path = write(tmp_path, [1.0], third_quarter="nan", last_quarter="0.1")
    assert {row["last / third quarter"] for row in made(tmp_path).values()} == {""}
    path.write_text(text(read_table(path)[:-1]))
    assert made(tmp_path) == {}
