"""Runs of the plan are resumed and never run twice, from the plan's revision and from no other."""

import csv
import sys
import time

import numpy
import pytest
import torch
import yaml
from plan_entry import ENTRY

from multimax.suite.errors import UserError
from multimax.suite.plan import Arm, read_plan
from multimax.suite.planned import __main__ as command
from multimax.suite.planned import table
from multimax.suite.planned.table import RunTable, packed, read_table, unpacked

ARMS = [Arm("softmax", 0.01), Arm("multimax", 0.02)]


class Counted:
    """Runs whose error is their seed plus .5; those of MultiMax also find a slope."""

    def __init__(self):
        self.done = []

    def run(self, arm, seed):
        self.done.append((arm.name, seed))
        own = {"slope": "0.5"} if arm.name == "multimax" else {}
        return {"seconds": "0.1", "error@32": f"{seed}.5"} | own


@pytest.fixture
def runs(monkeypatch):
    """Runs made in this process, at revision abc."""
    monkeypatch.setattr(table, "in_processes", lambda work, jobs, plugins: enumerate(map(table.one, work)))
    for module in (table, command):
        monkeypatch.setattr(module, "revision", lambda: "abc")
    found = Counted()
    monkeypatch.setattr(command, "MechanismRuns", lambda problem, variant: found)
    return found


def test_a_table_keeps_what_is_there_and_adds_what_is_missing(runs, tmp_path):
    of = RunTable(tmp_path / "runs.csv", runs)
    of.fill(ARMS, [0], "", 1)
    before = read_table(of.path)
    of.fill(ARMS, [0, 1], "", 1)
    assert runs.done == [("softmax", 0), ("multimax", 0), ("softmax", 1), ("multimax", 1)]
    assert read_table(of.path)[:2] == before
    assert [row["slope"] for row in before] == ["", "0.5"]
    of.fill(ARMS[:1], [1], "some plan", 1)
    assert [row["plan"] for row in read_table(of.path)] == ["", "", "", "", "some plan"]


def test_processes_that_fill_one_table_lose_and_double_nothing(runs, tmp_path):
    of, others = RunTable(tmp_path / "runs.csv", runs), RunTable(tmp_path / "runs.csv", Counted())

    class Slow(Counted):
        def run(self, arm, seed):
            others.fill([*ARMS, Arm("sparsemax", 0.1)], [seed], "", 1)  # during this run
            return super().run(arm, seed)

    RunTable(of.path, Slow()).fill(ARMS, [0, 1], "", 1)
    rows = [(row["arm"], row["seed"]) for row in read_table(of.path)]
    assert sorted(rows) == [(arm, seed) for arm in ("multimax", "softmax", "sparsemax") for seed in "01"]


@pytest.mark.parametrize("code", [None, "abc-dirty"])
def test_code_without_a_name_makes_no_record(runs, tmp_path, monkeypatch, code):
    monkeypatch.setattr(table, "revision", lambda: code)
    with pytest.raises(UserError, match="clean worktree"):
        RunTable(tmp_path / "runs.csv", runs).fill(ARMS, [0], "", 1)
    assert not runs.done


def test_runs_in_other_processes_are_the_same(tmp_path):
    work = [(Counted(), arm, seed) for arm in ARMS for seed in (0, 1)]
    assert dict(table.in_processes(work, 2)) == {i: runs.run(arm, seed) for i, (runs, arm, seed) in enumerate(work)}


class First(Counted):
    """Runs where softmax ends only once another run has its row in the table."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def run(self, arm, seed):
        while arm.name == "softmax" and not self.path.exists():
            time.sleep(0.01)
        return super().run(arm, seed)


def test_a_run_that_ends_first_is_kept_first(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "revision", lambda: "abc")
    of = RunTable(tmp_path / "runs.csv", First(tmp_path / "runs.csv"))
    of.fill(ARMS, [0], "", 2)
    assert [row["arm"] for row in read_table(of.path)] == ["multimax", "softmax"]


def called(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["planned", *map(str, arguments)])
    command.main()


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    rates = {"sparsemax": 0.3, "multimax": 0.1, "softmax": 0.2}
    path.write_text(yaml.safe_dump({"marked_mean": ENTRY | {"rates": rates, "last_seed": 101}}))
    return path


def test_what_decides_runs_first_and_carries_the_plan(runs, plan, tmp_path, monkeypatch, capsys):
    called(monkeypatch, "confirm", "marked_mean", "--plan", plan, "--to", tmp_path)
    assert [arm for arm, _ in runs.done] == ["multimax", "softmax"] * 2 + ["sparsemax"] * 2
    entry = read_plan(plan)["marked_mean"]
    rows = list(csv.DictReader((tmp_path / "marked_mean.csv").open()))
    assert all(entry.confirms(row["plan"], row["revision"], int(row["seed"])) for row in rows)
    called(monkeypatch, "confirm", "marked_mean", "--plan", plan, "--to", tmp_path)
    assert len(runs.done) == 6
    capsys.readouterr()
    called(monkeypatch, "status", "--plan", plan, "--to", tmp_path)
    assert capsys.readouterr().out == "marked_mean: 6 of 6 runs\n"


def test_runs_outside_of_the_plan_carry_none(runs, plan, tmp_path, monkeypatch):
    options = ["--plan", plan, "--to", tmp_path, "--arms", "softmax", "--rates", "0.1,0.2", "--seeds", "1000-1001"]
    called(monkeypatch, "explore", "marked_mean", *options)
    rows = read_table(tmp_path / "marked_mean.csv")
    assert [(row["plan"], row["rate"], row["seed"]) for row in rows] == [
        ("", rate, seed) for seed in ("1000", "1001") for rate in ("0.1", "0.2")
    ]


def test_what_no_entry_plans_runs_at_the_best_of_the_rates_that_were_tried(runs, plan, tmp_path, monkeypatch, capsys):
    places = ["--plan", plan, "--to", tmp_path]
    options = [*places, "--arms", "softmax,multimax"]
    with pytest.raises(SystemExit):
        called(monkeypatch, "explore", "marked_mean_mlp", *options, "--seeds", "0")
    assert "no learning rate for softmax, multimax" in capsys.readouterr().err
    called(monkeypatch, "explore", "marked_mean_mlp", *options, "--rates", "0.1,0.2", "--seeds", "1000")
    path = tmp_path / "marked_mean_mlp.csv"
    rows = read_table(path)
    for row in rows:  # softmax has the least error at 0.2, MultiMax at 0.1
        row["error@32"] = "1" if (row["arm"], row["rate"]) in {("softmax", "0.2"), ("multimax", "0.1")} else "2"
    path.write_text(table.text(rows))
    called(monkeypatch, "explore", "marked_mean_mlp", *options, "--seeds", "0")
    assert [(row["arm"], row["rate"]) for row in read_table(path)[4:]] == [("softmax", "0.2"), ("multimax", "0.1")]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["confirm", "marked_maen"], "no entry 'marked_maen'"),
        (["confirm", "marked_mean", "--place", "seed=3"], "data.root"),
        (["confirm", "marked_mean", "--place", "data.root"], "data.root=PATH"),
        (["confirm", "marked_mean", "--place", "data.root=x"], "makes its own data"),
        (["confirm", "marked_mean", "--jobs", "0"], "--jobs"),
        (["explore", "marked_maen", "--seeds", "0"], "no entry 'marked_maen'"),
        (["explore", "marked_mean", "--seeds", "0", "--arms", "sofmax"], "did you mean 'softmax'?"),
        (["explore", "marked_mean", "--seeds", "0", "--arms", "entmax15"], "no learning rate for entmax15"),
        (["explore", "marked_mean", "--seeds", "0", "--rates", "fast"], "--rates"),
        *(
            (["explore", "marked_mean", "--seeds", "0", "--rates", rate], "above 0")
            for rate in ("nan", "inf", "-1", "0")
        ),
        (["explore", "marked_mean", "--seeds", "few"], "--seeds"),
        *((["explore", "marked_mean", "--seeds", of], "FIRST-LAST") for of in ("5-3", "0-99999999", f"{2**64}")),
        (["explore", "marked_mean", "--seeds", "90-100"], "only by the plan"),
    ],
)
def test_what_is_mistyped_ends_in_a_line_that_names_it(runs, plan, tmp_path, monkeypatch, capsys, wrong, said):
    with pytest.raises(SystemExit) as ended:
        called(monkeypatch, *wrong, "--plan", plan, "--to", tmp_path)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not runs.done


@pytest.mark.parametrize("command", ["status", "confirm", "explore"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no column plan"),
        ("arm,seed\nsoftmax,1\n", "no column plan"),
        ("plan,revision,arm,rate,seed,error@32\n,abc,softmax,0.2,1000\n", "line 2"),
        ("plan,revision,arm,rate,seed\n,abc,softmax,0.2,1000\n,abc,softmax,0.2,1001,7\n", "line 3"),
        ("plan,revision,arm,rate,seed\n,abc,softmax,0.2,many\n", "line 2"),
        ("plan,revision,arm,rate,seed\n,abc,softmax,nan,1000\n", "line 2"),
        ("plan,revision,arm,rate,seed,error@32\n,abc,softmax,0.2,1000,0.1x\n", "line 2"),
        ("plan,revision,arm,rate,seed\n,abc,soft\udcffmax,0.2,1000\n", "cannot be read"),
    ],
)
def test_a_damaged_table_is_refused_and_stays_as_it_is(
    runs, plan, tmp_path, monkeypatch, capsys, command, content, said
):
    path = tmp_path / "marked_mean.csv"
    path.write_text(content, errors="surrogateescape")
    before = path.read_bytes()
    options = [command, *(["marked_mean"] if command != "status" else []), "--plan", plan, "--to", tmp_path]
    with pytest.raises(SystemExit):
        called(monkeypatch, *options, *(["--seeds", "0"] if command == "explore" else []))
    assert said in capsys.readouterr().err
    assert path.read_bytes() == before
    assert not runs.done


def test_a_run_that_is_named_twice_runs_once(runs, plan, tmp_path, monkeypatch):
    options = ["--plan", plan, "--to", tmp_path, "--arms", "softmax,softmax", "--rates", "0.1,0.10", "--seeds", "7"]
    called(monkeypatch, "explore", "marked_mean", *options)
    assert runs.done == [("softmax", 7)]


def test_other_code_than_the_plan_s_is_refused(runs, plan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "revision", lambda: "def")
    with pytest.raises(SystemExit):
        called(monkeypatch, "confirm", "marked_mean", "--plan", plan, "--to", tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "planned for revision abc, and the code here is def" in line
    assert not runs.done


def test_values_of_examples_fit_into_a_cell():
    values = torch.tensor([0.0, 100.0, -3.25])
    assert numpy.array_equal(unpacked(packed(values)), values.numpy())
