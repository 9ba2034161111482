"""The small problems ask what they claim to ask, and their runs are paired."""

from functools import partial
from itertools import islice

import pytest
import torch

from multimax import reweight
from multimax.suite.mechanisms import PROBLEMS, VARIANTS, MechanismRuns, label_noise
from multimax.suite.mechanisms.associative_recall import CONTENT, SYMBOLS, AssociativeRecall
from multimax.suite.mechanisms.marked_mean import Gathered
from multimax.suite.mechanisms.problem import ATTENTION, run
from multimax.suite.plan import Arm

BRIEF = 8  # steps


@pytest.fixture(params=sorted(PROBLEMS))
def problem(request, monkeypatch):
    found = PROBLEMS[request.param]
    monkeypatch.setattr(type(found), "test_rows", 64, raising=False)
    return found


class MarkedAlike(reweight.Reweighting):
    def forward(self, scores, mask=None):
        return (scores > 0) / (scores > 0).sum(-1, keepdim=True)


def brief(problem, name="multimax", seed=1):
    return run(problem, problem.variants[0], Arm(name, 0.01), seed, steps=BRIEF)


def test_equal_weights_on_the_marked_items_alone_answer_the_mean_of_them():
    problem = PROBLEMS["marked_mean"]
    model = Gathered("linear", MarkedAlike(), CONTENT, lambda: torch.nn.Linear(CONTENT, CONTENT))
    with torch.no_grad():
        for layer in (model.scorer, model.value):
            layer.weight.zero_()
            layer.bias.zero_()
        model.value.weight.fill_diagonal_(1)
        model.scorer.weight[0, 0] = 1
    items, target = problem.batch(64, 20, torch.Generator().manual_seed(0))
    assert problem.score(iter([(model(items), target)]))["error"] < 1e-12
    assert problem.score(iter([(torch.zeros_like(target), target)]))["error"] == pytest.approx(1)


def test_the_class_to_retrieve_is_that_of_the_largest_priority():
    items, target = PROBLEMS["max_retrieval"].batch(50, 7, torch.Generator().manual_seed(0))
    for row, wanted in zip(items, target, strict=True):
        assert max(row.tolist())[1:].index(1.0) == wanted


def test_equal_weights_on_the_matches_alone_recall_the_mean_of_what_they_hold():
    model = AssociativeRecall(MarkedAlike())
    with torch.no_grad():
        for layer, size in ((model.query, SYMBOLS), (model.key, SYMBOLS), (model.value, CONTENT)):
            layer.weight.copy_(torch.eye(*layer.weight.shape))
            layer.bias.zero_()
            assert size == layer.weight.shape[1]
    problem = PROBLEMS["associative_recall"]
    items, target = problem.batch(64, 20, torch.Generator().manual_seed(0))
    assert problem.score(iter([(model(items), target)]))["error"] < 1e-12
    several = (items[:, 1:, :SYMBOLS] * items[:, :1, :SYMBOLS]).sum((-2, -1))
    assert several.min() == 1
    assert several.max() > 1


def test_the_set_to_predict_has_the_classes_of_the_marked_items():
    problem = PROBLEMS["set_prediction"]
    items, target = problem.batch(50, 20, torch.Generator().manual_seed(0))
    for row, wanted in zip(items, target, strict=True):
        marked = {int(item[1:].argmax()) for item in row if item[0] > 0}
        assert marked == set(wanted.nonzero().flatten().tolist())
    scores = problem.score(iter([(target - 0.5, target), (0.5 - target, target)]))
    assert scores["accuracy"] == pytest.approx(50)


def test_the_share_of_wrong_labels_is_the_variant_s_and_they_stay_wrong():
    problem, (images, labels) = PROBLEMS["label_noise"], label_noise.split(1)[0]
    right = {tuple(image.tolist()): int(label) for image, label in zip(images, labels, strict=True)}
    for variant, share in (("0", 0.0), ("20", 0.2), ("40", 0.4)):
        given = {}
        for batch in islice(problem.training(variant, 1), 40):  # four passes
            for image, label in zip(*batch, strict=True):
                assert given.setdefault(tuple(image.tolist()), int(label)) == int(label)
        assert sum(right[image] != label for image, label in given.items()) / len(given) == pytest.approx(
            share, abs=0.04
        )


def test_rates_are_chosen_without_the_images_that_judge():
    def images(part):
        return {tuple(image.tolist()) for image in part[0]}

    train, test = map(images, label_noise.split(0))
    tuning, held_out = map(images, label_noise.split(1000))
    assert tuning | held_out == train
    assert not (train & test) | (tuning & held_out)


def test_mixed_images_keep_their_share_of_each_class():
    images, target = next(PROBLEMS["label_noise"].training("0_mixup", 1))
    torch.testing.assert_close(target.sum(-1), torch.ones(len(images)))
    assert ((target > 0).sum(-1) == 2).any()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_function_gets_a_gradient_in_every_variant(name):
    problem, variant = VARIANTS[name].problem, VARIANTS[name].variant
    items, target = next(problem.training(variant, 1))
    for function in problem.functions():
        model = problem.model(variant, partial(reweight.create, function))
        problem.loss(model, items, target).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_arms_of_a_seed_start_alike_and_see_the_same_rows(problem, monkeypatch):
    seen, original = [], problem.loss
    monkeypatch.setattr(problem, "loss", lambda model, *rows: seen.append(rows) or original(model, *rows))
    for name in ("softmax", "multimax"):
        brief(problem, name)
    assert len(seen) == 2 * BRIEF
    ours, others = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for pair in zip(ours, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


def test_a_run_gives_the_same_numbers_again(problem):
    first, again = brief(problem), brief(problem)
    assert first == again
    measures = {f"{name}@{n}" for name in (*problem.measures, *ATTENTION) for n in problem.test_lengths}
    assert set(first) == {"third_quarter", "last_quarter", *measures}
    other = brief(problem, seed=2)
    assert any(first[name] != other[name] for name in measures)


def test_the_cells_of_a_run_are_its_measures(problem, monkeypatch):
    monkeypatch.setattr(type(problem), "steps", BRIEF)
    cells = MechanismRuns(problem, problem.variants[0]).run(Arm("multimax", 0.01), 1)
    assert float(cells.pop("seconds")) >= 0
    assert {name: float(value) for name, value in cells.items()} == pytest.approx(brief(problem), rel=1e-5)
