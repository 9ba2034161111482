"""The findings on the page are those of the table, and the runs behind them give the same numbers."""

import csv
import math

import pytest
import yaml
from plan_entry import COMPARISON
from planned_runs import SEEDS, write
from test_page import data_in

from multimax.suite.report.page.data import page_data
from multimax.suite.report.page.findings_data import findings_data
from multimax.suite.report.page.html import page


def shown(tmp_path):
    return findings_data(tmp_path / "plan.yaml", tmp_path)


def test_each_row_of_the_table_is_on_the_page(root):
    with (root / "results/tables/findings.csv").open(newline="") as file:
        table = {(row["comparison"], row["against"], row["statistic"]): row for row in csv.DictReader(file)}
    data = data_in((root / "results/index.html").read_bytes())["findings"]
    found = {(row["comparison"], row["against"], row["statistic"]): row for row in data["rows"]}
    assert found.keys() == table.keys()
    for key, row in found.items():
        assert {name: row[name] for name in row.keys() & table[key].keys()} == {
            name: table[key][name] for name in row.keys() & table[key].keys()
        }
        claim, entry = table[key]["claim"], data["entries"][data["comparisons"][row["comparison"]]["entry"]]
        assert data["comparisons"][row["comparison"]]["claim"] == claim
        assert (entry["tag"], entry["plan"]["digest"]) == (table[key]["setting"], table[key]["plan"])
        assert entry["records"] is None or (root / "results" / entry["records"]).is_file()


def test_the_runs_behind_a_finding_give_its_effect(root):
    data = data_in((root / "results/index.html").read_bytes())["findings"]
    measured = [row for row in data["rows"] if row["in_margins"]]
    for row in measured:
        of = data["comparisons"][row["comparison"]]
        values = data["entries"][of["entry"]]["measured"][row["measure"]]
        taken = math.log if of["scale"] == "log" else float
        gains = [taken(a) - taken(b) for a, b in zip(values[of["ours"]], values[row["against"]], strict=True)]
        mean = sum(gains) / len(gains) * (1 if of["better"] == "higher" else -1)
        low, high = row["in_margins"][1:]
        effect = float(row["effect"].split()[0])
        assert mean == pytest.approx(effect, abs=0.006), row
        assert low < row["in_margins"][0] < high


def test_primary_comparisons_come_first_and_what_has_not_run_has_no_effect(tmp_path):
    write(tmp_path, [1.0, 1.0], {"primary": False})
    plan = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    plan["last"] = plan["A"] | {"comparisons": {"planned": COMPARISON}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    data = shown(tmp_path)
    assert [row["comparison"] for row in data["rows"]] == ["planned", "is_A", "is_B"]
    assert [row["in_margins"] is None for row in data["rows"]] == [True, False, False]
    assert (data["entries"]["last"]["measured"], data["entries"]["last"]["records"]) == ({}, None)


def test_a_run_that_is_missing_leaves_a_gap_and_no_effect(tmp_path):
    path = write(tmp_path, [1.0])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    data = shown(tmp_path)
    assert data["rows"][0]["in_margins"] is None
    values = data["entries"]["A"]["measured"]["error@32"]
    assert values["multimax"][0] is None
    assert sum(value is not None for of in values.values() for value in of) == 2 * len(SEEDS) - 1


def test_the_command_names_the_revision_and_the_entry(tmp_path):
    write(tmp_path, [1.0])
    first, second = shown(tmp_path)["entries"]["A"]["commands"]
    assert first.split()[-1] == "abc"
    assert "confirm A " in second


def test_a_project_without_a_plan_has_no_findings(tmp_path):
    assert shown(tmp_path) == {"rows": [], "comparisons": {}, "entries": {}}
    assert data_in(page(page_data([], "Runs", "Made up.")))["findings"]["rows"] == []
