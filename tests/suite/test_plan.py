"""The plan: wrong entries are refused, and only its own runs confirm.

A run confirms only with the plan's entry, revision and seed.
"""

from dataclasses import fields, replace

import pytest
import yaml
from plan_entry import COMPARISON, ENTRY

from multimax import reweight
from multimax.suite.composition import compose_configuration, typed
from multimax.suite.errors import UserError
from multimax.suite.mechanisms import PROBLEMS
from multimax.suite.mechanisms.problem import ATTENTION
from multimax.suite.plan import Arm, Comparison, Entry, read_plan
from multimax.suite.planned.training import Trainings


def written(tmp_path, entry=None, comparison=None):
    """Write a plan of one entry with these changes; a key set to None is left out."""
    comparison = {key: value for key, value in (COMPARISON | (comparison or {})).items() if value is not None}
    changed = ENTRY | {"comparisons": {"marked": comparison}} | (entry or {})
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"marked": {key: value for key, value in changed.items() if value is not None}}))
    return path


def test_a_run_confirms_only_with_the_entry_the_revision_and_a_seed_of_the_plan(tmp_path):
    planned = read_plan(written(tmp_path))["marked"]
    assert planned.confirms(planned.digest, "abc", 100)
    assert not planned.confirms(planned.digest, "abc-dirty", 100)
    assert not planned.confirms(planned.digest, "abc", 110)
    assert not planned.confirms("", "abc", 100)
    unready = replace(planned, revision="")
    assert not unready.confirms(unready.digest, "", 100)


def other(value):
    return value + 1 if isinstance(value, int | float) else {} if isinstance(value, dict) else f"{value} "


@pytest.mark.parametrize("field", [field.name for field in fields(Entry)])
def test_any_change_of_an_entry_makes_another_plan(tmp_path, field):
    planned = read_plan(written(tmp_path))["marked"]
    value = getattr(planned, field)
    change = {"x": ()} if value == {} else () if field == "comparisons" else other(value)
    assert replace(planned, **{field: change}).digest != planned.digest


@pytest.mark.parametrize("field", [field.name for field in fields(Comparison)])
def test_any_change_of_a_comparison_makes_another_plan(tmp_path, field):
    planned = read_plan(written(tmp_path))["marked"]
    (of,) = planned.comparisons
    changed = replace(of, **{field: other(getattr(of, field))})
    assert replace(planned, comparisons=(changed,)).digest != planned.digest


@pytest.mark.parametrize(
    ("entry", "comparison", "said"),
    [
        ({"problem": None}, {}, "lacks problem"),
        ({}, {"margins": None}, "lacks margins"),
        ({}, {"marign": 1.0, "margins": None}, "should not have marign"),
        ({}, {"margins": {"error@32": 0.0}}, "above zero"),
        ({"rates": {"multimax": 0.01}}, {}, "no learning rate for softmax"),
        ({"first_seed": 0}, {}, "100 to 999"),
        ({"last_seed": 1000}, {}, "100 to 999"),
        ({"first_seed": "100"}, {}, "first_seed should be int, and is '100'"),
        ({"rates": ["multimax"]}, {}, "rates should be a mapping"),
        ({"rates": {"multimax": "1e-3", "softmax": 0.1}}, {}, "multimax should be int or float, and is '1e-3'"),
        ({"rates": {"multimax": -1, "softmax": 0.1}}, {}, "above 0"),
        ({"overrides": "task=lm"}, {}, "overrides should be a list"),
        ({"overrides": [1]}, {}, r"overrides\[0\] should be str"),
        ({"comparisons": {"marked": 3}}, {}, "comparisons: marked should be dict"),
        ({}, {"primary": 1}, "primary should be bool"),
        ({}, {"margins": {"error@32": float("nan")}}, "above zero"),
        ({}, {"controls": []}, "controls are empty"),
        ({}, {"scale": "plane"}, "choose one of plain, log"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_line(tmp_path, entry, comparison, said):
    with pytest.raises(UserError, match=said) as refused:
        read_plan(written(tmp_path, entry, comparison))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["- x", "3", "marked: null", "marked: [", "1: {}", "\udcff"])
def test_what_is_no_plan_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "plan.yaml").write_text(content, errors="surrogateescape")
    with pytest.raises(UserError) as refused:
        read_plan(tmp_path / "plan.yaml")
    assert "\n" not in str(refused.value)


def test_two_comparisons_have_two_names(tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"one": ENTRY, "other": ENTRY}))
    with pytest.raises(UserError, match="two comparisons with the name marked"):
        read_plan(tmp_path / "plan.yaml")


def test_the_plan_of_the_repository_can_be_run(root):
    for entry in read_plan(root / "results/plan.yaml").values():
        if entry.problem == "train":
            trainings = Trainings(entry.overrides, entry.arms, [], root)
            for overrides in ([], entry.tuning):
                for arm, rate in entry.rates.items():
                    command = replace(trainings, overrides=[*entry.overrides, *overrides]).command(Arm(arm, rate), 100)
                    config = typed(compose_configuration(command), overrides=command)
                    assert config.reweight.output["name"] == "softmax"
                    assert config.optimizer.learning_rate == rate
        else:
            problem = PROBLEMS[entry.problem]
            assert entry.variant in problem.variants
            assert set(entry.rates) <= set(reweight.available())
            for measure in {measure for of in entry.comparisons for measure in of.margins}:
                name, _, length = measure.partition("@")
                assert name in (*problem.measures, *ATTENTION)
                assert int(length) in problem.test_lengths


def test_the_plan_of_the_repository_has_at_most_eight_primary_comparisons(root):
    tests = [of for entry in read_plan(root / "results/plan.yaml").values() for of in entry.comparisons]
    assert sum(of.primary for of in tests) <= 8
