"""The measures of attention beside the planned ones: means and paired differences of the plan's own runs."""

import csv

import pytest
from planned_runs import SEEDS, write

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
