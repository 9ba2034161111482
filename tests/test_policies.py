"""The program of experiments/policies runs, and writes its table from its own runs."""

import csv
import importlib.util
import sys

import pytest


@pytest.fixture
def policies(root, monkeypatch):
    spec = importlib.util.spec_from_file_location("policies_run", root / "experiments/policies/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STEPS", 20)
    monkeypatch.setattr(module, "UPDATES", 2)
    return module


def test_two_seeds(policies, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "--seeds", "2", "--output", str(tmp_path)])
    policies.main()
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["function"] for row in rows} == set(policies.FUNCTIONS)
    assert {row["seed"] for row in rows} == {"0", "1"}
    zeros = {row["function"] for row in rows if row["measure"] == "exact zeros" and float(row["value"]) > 0}
    assert zeros <= {"sparsemax", "entmax15"}
    text = (tmp_path / "README.md").read_text()
    policies.main()
    assert (tmp_path / "README.md").read_text() == text


def test_cartpole(policies):
    pytest.importorskip("gymnasium")
    assert policies.cartpole("sparsemax", 0)["steps survived"] > 0


def test_the_table_that_is_kept_is_that_of_the_results(policies, root):
    folder = root / "experiments/policies"
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert policies.table(rows) in (folder / "README.md").read_text()
