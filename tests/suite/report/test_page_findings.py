"""The findings on the page are those of the table, and the runs behind them give the same numbers."""

import csv
import math

import pytest
import yaml
from plan_entry import COMPARISON
from planned_runs import write
from test_page import data_in

from multimax.suite.plan import read_plan
from multimax.suite.planned.table import read_table, text
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
        assert [entry["tag"], entry["setting"], entry["plan"]["digest"]] == [
            table[key][name] for name in ("tag", "setting", "plan")
        ]
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


def without(path, arm):
    """Remove the last run of an arm from the table."""
    rows = read_table(path)
    rows.remove(next(row for row in reversed(rows) if row["arm"] == arm))
    path.write_text(text(rows))


def test_no_run_is_shown_before_all_that_decide_the_entry_are_there(tmp_path):
    path = write(tmp_path, [1.0], {"controls": ["softmax", "temperature"]})
    assert set(shown(tmp_path)["entries"]["A"]["measured"]["error@32"]) == {"multimax", "softmax", "temperature"}
    without(path, "temperature")
    data = shown(tmp_path)
    assert data["entries"]["A"]["measured"] == {}
    assert [row["in_margins"] is None for row in data["rows"]] == [False, True]
    without(path, "multimax")
    value = read_table(path)[0]["error@32"]
    assert value[:6] not in page(page_data([], "Runs", "Made up.", findings=shown(tmp_path))).decode()


def test_an_arm_that_decides_nothing_is_shown_once_its_own_runs_are_there(tmp_path):
    path = write(tmp_path, [1.0], {"controls": ["softmax", "sparsemax"]})
    plan = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    first = plan["A"]["comparisons"]["is_A"]
    plan["A"]["comparisons"] = {
        "is_A": first | {"controls": ["softmax"]},
        "sparse": first | {"controls": ["sparsemax"], "primary": False},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    (entry,) = read_plan(tmp_path / "plan.yaml").values()
    path.write_text(text([row | {"plan": entry.digest} for row in read_table(path)]))
    arms = [{"multimax", "softmax", "sparsemax"}, {"multimax", "softmax"}]
    assert set(shown(tmp_path)["entries"]["A"]["measured"]["error@32"]) == arms[0]
    without(path, "sparsemax")
    assert set(shown(tmp_path)["entries"]["A"]["measured"]["error@32"]) == arms[1]


def test_the_command_names_the_revision_and_the_entry(tmp_path):
    write(tmp_path, [1.0])
    first, second = shown(tmp_path)["entries"]["A"]["commands"]
    assert first.split()[-1] == "abc"
    assert "confirm A " in second


def test_a_project_without_a_plan_has_no_findings(tmp_path):
    assert shown(tmp_path) == {"rows": [], "comparisons": {}, "entries": {}}
    assert data_in(page(page_data([], "Runs", "Made up.")))["findings"]["rows"] == []
