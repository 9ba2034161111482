"""The small problems ask what they say they ask, and their runs are paired."""

from dataclasses import replace

import pytest
import torch

from multimax import reweight
from multimax.suite.mechanisms import PROBLEMS, MechanismRuns
from multimax.suite.mechanisms.marked_mean import MarkedMean
from multimax.suite.mechanisms.problem import ATTENTION, run
from multimax.suite.plan import Arm

BRIEF = 8  # steps


@pytest.fixture(params=sorted(PROBLEMS))
def problem(request):
    return PROBLEMS[request.param]


class MarkedAlike(reweight.Reweighting):
    def forward(self, scores, mask=None):
        return (scores > 0) / (scores > 0).sum(-1, keepdim=True)


def brief(problem, name="multimax", seed=1):
    return run(problem, problem.variants[0], Arm(name, 0.01), seed, steps=BRIEF)


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
        brief(problem, name)
    ours, others = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for pair in zip(ours, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


def test_a_run_gives_the_same_numbers_again(problem):
    first, again = brief(problem), brief(problem)
    assert replace(first, seconds=0) == replace(again, seconds=0)
    assert set(first.measures) == {(m, n) for m in (problem.measure, *ATTENTION) for n in problem.test_lengths}
    assert brief(problem, seed=2).measures != first.measures


def test_the_cells_of_a_run_are_its_measures(problem, monkeypatch):
    monkeypatch.setattr(type(problem), "steps", BRIEF)
    cells = MechanismRuns(problem, problem.variants[0]).run(Arm("multimax", 0.01), 1)
    found = brief(problem).measures
    assert all(float(cells[f"{name}@{n}"]) == pytest.approx(value, rel=1e-5) for (name, n), value in found.items())
