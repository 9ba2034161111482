"""The small problems ask what they say they ask; their runs are paired, resumed and never run twice."""

import csv
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from multimax import reweight
from multimax.suite.mechanisms import PROBLEMS
from multimax.suite.mechanisms.__main__ import main
from multimax.suite.mechanisms.marked_mean import MarkedMean
from multimax.suite.mechanisms.problem import Arm, run
from multimax.suite.mechanisms.table import RunTable, read_table

BRIEF = 8  # steps


@pytest.fixture(params=sorted(PROBLEMS))
def problem(request):
    return PROBLEMS[request.param]


class MarkedAlike(reweight.Reweighting):
    def forward(self, scores, mask=None):
        return (scores > 0) / (scores > 0).sum(-1, keepdim=True)


def arm(problem, name="multimax"):
    return Arm({"name": name}, problem.variants[0], 0.01)


def test_equal_weights_on_the_marked_items_alone_answer_the_mean_of_them():
    problem = PROBLEMS["marked_mean"]
    model = MarkedMean("linear", MarkedAlike())
    with torch.no_grad():
        for layer in (model.scorer, model.value):
            layer.weight.zero_()
            layer.bias.zero_()
        model.value.weight.fill_diagonal_(1)
        model.scorer.weight[0, 0] = 1
    items, target = problem.batch(64, 20, torch.Generator().manual_seed(0))
    assert problem.score(iter([(model(items), target)])) < 1e-12
    assert problem.score(iter([(torch.zeros_like(target), target)])) == pytest.approx(1)


def test_the_class_to_retrieve_is_that_of_the_largest_priority():
    items, target = PROBLEMS["max_retrieval"].batch(50, 7, torch.Generator().manual_seed(0))
    for row, wanted in zip(items, target, strict=True):
        assert max(row.tolist())[1:].index(1.0) == wanted


def test_arms_of_a_seed_start_alike_and_see_the_same_rows(problem, monkeypatch):
    seen, original = [], problem.batch
    monkeypatch.setattr(problem, "batch", lambda *args: seen.append(original(*args)) or seen[-1])
    for name in ("softmax", "multimax"):
        run(problem, arm(problem, name), seed=3, steps=BRIEF)
    ours, others = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for pair in zip(ours, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


def test_a_run_gives_the_same_numbers_again(problem):
    first, again = (run(problem, arm(problem), seed=1, steps=BRIEF) for _ in range(2))
    assert replace(first, seconds=0) == replace(again, seconds=0)
    assert set(first.measures) == {
        (m, n) for m in (problem.measure, "gini", "multi_modality") for n in problem.test_lengths
    }
    assert run(problem, arm(problem), seed=2, steps=BRIEF).measures != first.measures


def test_a_table_keeps_what_is_there_and_adds_what_is_missing(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(type(problem), "steps", BRIEF)
    table, done = RunTable(tmp_path / "runs.csv", problem), []
    monkeypatch.setattr(
        "multimax.suite.mechanisms.table.in_processes",
        lambda work, jobs: (done.append(seed) or run(problem, of, seed) for _, of, seed in work),
    )
    table.fill([arm(problem)], [0], "", 1)
    before = read_table(table.path)
    table.fill([arm(problem)], [0, 1], "", 1)
    assert done == [0, 1]
    assert read_table(table.path)[:1] == before
    table.fill([arm(problem)], [1], "some plan", 1)
    assert [row["plan"] for row in read_table(table.path)] == ["", "", "some plan"]


def test_the_command_writes_a_row_for_each_run(tmp_path, root):
    options = ["--functions", "softmax,sparsemax", "--seeds", "7", "--rates", "0.01", "--to", tmp_path, "--jobs", "2"]
    code = (
        "import sys; from multimax.suite.mechanisms import __main__, marked_mean as m; "
        "m.MarkedMeanProblem.test_lengths = (32,); __main__.main()"
    )
    command = [sys.executable, "-c", code, "explore", "marked_mean", "--variant", "linear", *map(str, options)]
    subprocess.run(command, check=True, cwd=root, capture_output=True)
    rows = list(csv.DictReader((tmp_path / "marked_mean.csv").open()))
    assert [(row["function"], row["seed"]) for row in rows] == [("softmax", "7"), ("sparsemax", "7")]
    assert all(float(row["seconds"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--functions", "sofmax"], "did you mean 'softmax'?"),
        (["--rates", "fast"], "--rates"),
        (["--seeds", "few"], "--seeds"),
        (["--jobs", "0"], "--jobs"),
        (["--variant", "linera"], "must be one of linear, mlp"),
    ],
)
def test_what_is_mistyped_ends_in_a_line_that_names_it(monkeypatch, capsys, wrong, said):
    monkeypatch.setattr(sys, "argv", ["mechanisms", "explore", "marked_mean", *wrong])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
