"""The plan: an entry is whole or refused, and a run confirms only where entry, revision and seed are the plan's."""

from dataclasses import fields, replace

import pytest
import yaml
from plan_entry import ENTRY

from multimax import reweight
from multimax.suite.errors import UserError
from multimax.suite.mechanisms import PROBLEMS
from multimax.suite.plan import Comparison, read_plan


def written(tmp_path, **changes):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"marked": {k: v for k, v in (ENTRY | changes).items() if v is not None}}))
    return path


def test_a_run_confirms_only_with_the_entry_the_revision_and_a_seed_of_the_plan(tmp_path):
    planned = read_plan(written(tmp_path))["marked"]
    assert planned.confirms(planned.digest, "abc", 100)
    assert not planned.confirms(planned.digest, "abc-dirty", 100)
    assert not planned.confirms(planned.digest, "abc", 110)
    assert not planned.confirms("", "abc", 100)


@pytest.mark.parametrize("field", [field.name for field in fields(Comparison)])
def test_any_change_of_an_entry_makes_another_plan(tmp_path, field):
    planned = read_plan(written(tmp_path))["marked"]
    value = getattr(planned, field)
    other = value + 1 if isinstance(value, int | float) else {} if isinstance(value, dict) else f"{value} "
    assert replace(planned, **{field: other}).digest != planned.digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"margin": None}, "lacks margin"),
        ({"marign": 1.0}, "unknown key marign"),
        ({"margin": 0.0}, "above zero"),
        ({"rates": {"multimax": 0.01}}, "no learning rate for softmax"),
        ({"first_seed": 0}, "100 to 999"),
        ({"last_seed": 1000}, "100 to 999"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_line(tmp_path, changes, said):
    with pytest.raises(UserError, match=said) as refused:
        read_plan(written(tmp_path, **changes))
    assert "\n" not in str(refused.value)


def test_the_plan_of_the_repository_can_be_run(root):
    path = root / "results/plan.yaml"
    for comparison in read_plan(path).values() if path.exists() else ():
        problem = PROBLEMS[comparison.problem]
        assert comparison.variant in problem.variants
        assert set(comparison.functions) <= set(reweight.available())
        measure, _, length = comparison.measure.partition("@")
        assert measure in (problem.measure, "gini", "multi_modality")
        assert int(length) in problem.test_lengths
