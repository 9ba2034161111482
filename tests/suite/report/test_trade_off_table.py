"""What the plan's runs show about attention besides the planned measures.

Means, paired differences and learned modulators.
"""

import csv

import pytest
import yaml
from planned_runs import SEEDS, write

from multimax.suite.plan import read_plan
from multimax.suite.planned.table import read_table, text
from multimax.suite.report.planned_tables import planned_table


def test_differences_are_paired_and_of_confirmatory_runs(tmp_path):
    path = write(tmp_path, [1.0], measures=("error@32",))
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for row in rows:
        row["gini@32"] = str(0.001 * int(row["seed"]) + 0.25 * (row["arm"] == "multimax"))
    rows.append(rows[0] | {"plan": "", "gini@32": "0.9"})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (output,) = planned_table("trade_off", tmp_path / "plan.yaml", tmp_path)
    made = {row["function"]: row for row in csv.DictReader(output.files[".csv"].decode().splitlines())}
    assert {row["measure"] for row in made.values()} == {"gini@32"}
    assert made["softmax"]["seeds"] == str(len(SEEDS))
    for name in set(made) - {"multimax"}:
        assert float(made[name]["MultiMax less this"].split(" [")[0]) == pytest.approx(0.25)
    assert made["multimax"]["MultiMax less this"] == ""


def test_nothing_is_shown_before_all_seeds_of_what_decides_are_there(tmp_path):
    path = write(tmp_path, [1.0], measures=("error@32", "gini@32"))
    whole = path.read_text().splitlines()
    (output,) = planned_table("trade_off", tmp_path / "plan.yaml", tmp_path)
    assert b"gini@32" in output.files[".csv"]
    last = next(line for line in reversed(whole) if ",multimax," in line)
    path.write_text("\n".join(line for line in whole if line != last) + "\n")
    (output,) = planned_table("trade_off", tmp_path / "plan.yaml", tmp_path)
    assert b"gini@32" not in output.files[".csv"]


def test_equal_rates_are_compared_in_the_runs_that_chose_them_alone(tmp_path):
    path = write(tmp_path, [1.0])
    as_training(tmp_path)
    tried = {"plan": "", "revision": "x", "seed": "1000", "multi_modality": "0.5"}
    given = {("softmax", "0.01"): "0.2", ("multimax", "0.01"): "0.5", ("softmax", "0.02"): "0.3"}
    given["multimax", "0.02"] = "nan"  # it diverged
    rows = [tried | {"arm": arm, "rate": rate, "gini": gini} for (arm, rate), gini in given.items()]
    path.write_text(text([row | {"gini": "0.9"} for row in read_table(path)] + rows))
    (output,) = planned_table("equal_rates", tmp_path / "plan.yaml", tmp_path)
    made = [row for row in csv.DictReader(output.files[".csv"].decode().splitlines()) if row["measure"] == "gini"]
    assert [(row["rate"], row["function"], row["mean"]) for row in made] == [
        ("0.01", "multimax", "0.5"),
        ("0.01", "softmax", "0.2"),
    ]
    assert made[1]["MultiMax less this"] == "0.3"


def test_a_modulator_is_counted_by_its_slopes(tmp_path):
    ranges, hinges = {f"ranges.{i}:a": "0" for i in range(4)}, {"ts.2:a": "0", "ts.3:a": "0"}
    path = write(tmp_path, [1.0], **ranges, **hinges, **{"ts.0:a": "-1", "ts.1:a": "-0.5"})
    as_training(tmp_path)
    rows = read_table(path)
    for row in rows:  # a quadratic term has the slope t times twice the distance from 0
        if row["seed"] == str(SEEDS[0]):
            row["ts.2:a"] = "0.5"  # 1 + 1 - 2 * 0.5 * 4 < 1 at -4
        if row["seed"] == str(SEEDS[1]):
            row["ts.3:a"] = "0.5"  # 1 - 0.5 + 2 * 0.5 * 4 > 1 at 4
    path.write_text(text(rows))
    (output,) = planned_table("modulators", tmp_path / "plan.yaml", tmp_path)
    (row,) = csv.DictReader(output.files[".csv"].decode().splitlines())
    assert (row["layers"], row["seeds"]) == ("1", "10")
    assert (row["steep below"], row["flat above"], row["both"]) == ("9 of 10", "9 of 10", "8 of 10")


def as_training(folder):
    """Make it a plan for runs of train.py. Its digest changes, and with it the one in the runs."""
    path = folder / "plan.yaml"
    plan = yaml.safe_load(path.read_text())
    before = read_plan(path)
    for entry in plan.values():
        entry.update(problem="train", variant="")
    path.write_text(yaml.safe_dump(plan))
    for name, entry in read_plan(path).items():
        runs = folder / f"{name}.csv"
        runs.write_text(runs.read_text().replace(before[name].digest, entry.digest))
