"""Verdicts follow from the plan's own runs: all of them, and nothing but them."""

import csv
import math
import random

import pytest
import yaml
from plan_entry import ENTRY

from multimax.suite.plan import read_plan
from multimax.suite.report.findings import findings, findings_table

SEEDS = range(100, 110)


def write(tmp_path, gains, changes=None, seeds=SEEDS, **columns):
    """A plan with the comparisons A, B, ... that gain ``gains`` on average, and their runs; the errors vary by 10%."""
    plan, rows, draw = {}, [], random.Random(0)
    functions = [ENTRY["ours"], *(changes or {}).get("controls", ENTRY["controls"])]
    for name in "ABCDEFGH"[: len(gains)]:
        plan[name] = ENTRY | {"question": name, "rates": dict.fromkeys(functions, 0.01)} | (changes or {})
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    for planned, gain in zip(read_plan(tmp_path / "plan.yaml").values(), gains, strict=True):
        for seed in seeds:
            for function in functions:
                error = math.exp(draw.gauss(0, 0.1) - gain * (function == planned.ours))
                key = {"plan": planned.digest, "revision": planned.revision, "function": function, "seed": seed}
                rows.append(key | {"error@32": error} | columns)
    with (tmp_path / "marked_mean.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "marked_mean.csv"


def verdicts(tmp_path):
    return [of.verdict.split(":")[0] for of in findings(read_plan(tmp_path / "plan.yaml"), tmp_path)]


@pytest.mark.parametrize(
    ("gain", "verdict"), [(1.0, "supported"), (-1.0, "contradicted"), (0.0, "no effect above the margin")]
)
def test_a_large_gain_a_large_loss_and_none(tmp_path, gain, verdict):
    write(tmp_path, [gain])
    assert verdicts(tmp_path) == [verdict]


def test_an_accuracy_gains_in_the_other_direction(tmp_path):
    write(tmp_path, [1.0], {"better": "higher"})
    assert verdicts(tmp_path) == ["contradicted"]


def test_what_could_not_have_been_seen_is_inconclusive(tmp_path):
    write(tmp_path, [0.02], {"margin": 0.001})
    assert verdicts(tmp_path) == ["inconclusive"]


def test_a_missing_seed_leaves_no_verdict_and_changes_no_other(tmp_path):
    path = write(tmp_path, [1.0, 1.0, -1.0])
    before = verdicts(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    (first, *others) = findings(read_plan(tmp_path / "plan.yaml"), tmp_path)
    assert first.verdict == "not run: 9 of 10 seeds"
    assert [of.verdict for of in others] == before[1:]


@pytest.mark.parametrize("changed", [{"plan": ""}, {"revision": "abc-dirty"}])
def test_runs_of_another_plan_or_code_are_no_evidence(tmp_path, changed):
    write(tmp_path, [1.0], **changed)
    assert verdicts(tmp_path) == ["not run"]


def test_runs_of_other_seeds_are_no_evidence(tmp_path):
    write(tmp_path, [1.0], seeds=range(0, 10))
    assert verdicts(tmp_path) == ["not run"]


def test_the_second_control_is_tested_only_where_the_first_claim_holds(tmp_path):
    for gain, tested in ((1.0, True), (0.0, False)):
        write(tmp_path, [gain], {"controls": ["softmax", "temperature"]})
        first, second = findings(read_plan(tmp_path / "plan.yaml"), tmp_path)
        assert first.p_holm is not None
        assert (second.p_holm is not None) is tested


def test_more_primary_comparisons_make_each_harder(tmp_path):
    found = {}
    for count in (1, 8):
        write(tmp_path, [0.08] * count)
        found[count] = findings(read_plan(tmp_path / "plan.yaml"), tmp_path)[0]
    assert found[8].p == found[1].p
    assert found[8].p_holm > found[1].p_holm


def test_the_table_says_what_was_found(tmp_path):
    write(tmp_path, [1.0, 0.0])
    (output,) = findings_table(tmp_path / "plan.yaml", tmp_path)
    rows = list(csv.DictReader(output.files[".csv"].decode().splitlines()))
    assert [row["verdict"] for row in rows] == ["supported", "no effect above the margin"]
    assert all(float(row["low"]) < float(row["high"]) for row in rows)
    assert b"| supported |" in output.files[".md"]
