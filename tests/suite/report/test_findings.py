"""Verdicts follow from all of the plan's own runs, and from nothing else."""

import csv
import random
import re
import shutil
from dataclasses import replace

import pytest
import torch
from planned_runs import write

from multimax.suite.errors import UserError
from multimax.suite.plan import PLAN, read_plan
from multimax.suite.planned.table import packed, read_table, text
from multimax.suite.report.findings import Finding, findings, findings_table
from multimax.suite.report.findings_figures import brief, each_verdict
from multimax.suite.report.results import all_tables
from multimax.suite.report.settings import setting
from multimax.suite.report.statistics import holm


def found(tmp_path) -> list[Finding]:
    return findings(read_plan(tmp_path / "plan.yaml"), tmp_path)


def verdicts(tmp_path):
    return [of.verdict.split(":")[0] for of in found(tmp_path)]


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        (1.0, "supported"),
        (0.3, "supported, below the margin"),
        (-1.0, "contradicted"),
        (0.0, "no gain above the margin"),
    ],
)
def test_a_large_gain_a_small_one_a_loss_and_none(tmp_path, gain, verdict):
    write(tmp_path, [gain])
    assert verdicts(tmp_path) == [verdict]


def test_an_accuracy_gains_in_the_other_direction(tmp_path):
    write(tmp_path, [1.0], {"better": "higher"})
    assert verdicts(tmp_path) == ["contradicted"]


def test_what_could_not_have_been_seen_is_inconclusive(tmp_path):
    write(tmp_path, [0.02], {"margins": {"error@32": 0.001}})
    assert verdicts(tmp_path) == ["inconclusive"]


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [((1.0, 1.0), "supported"), ((1.0, 0.0), "no gain above the margin"), ((1.0, -1.0), "contradicted")],
)
def test_a_claim_of_two_measures_holds_only_where_both_gain(tmp_path, gains, verdict):
    write(tmp_path, [gains], measures=("error@32", "error@64"))
    assert verdicts(tmp_path) == [verdict]


def drop(path, index=1):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:index], *lines[index + 1 :]]) + "\n")


def test_a_missing_record_leaves_no_verdict_and_changes_no_other(tmp_path):
    path = write(tmp_path, [1.0, 1.0, -1.0, 0.0, 0.3])
    before = verdicts(tmp_path)
    drop(path)
    first, *others = found(tmp_path)
    assert first.verdict == "not run: 9 of 10 seeds"
    assert [of.verdict for of in others] == before[1:]


def test_a_missing_record_can_only_make_others_harder(tmp_path):
    """Holm's adjustment depends on the comparisons with smaller p; at most it is Bonferroni's."""
    draw = random.Random(1)
    for _ in range(200):
        p = [draw.random() ** 4 for _ in range(7)]
        missing = draw.randrange(7)
        before, after = holm(p), holm([1.0 if i == missing else value for i, value in enumerate(p)])
        for i in set(range(7)) - {missing}:
            assert before[i] <= after[i] <= min(1.0, 7 * max(p[j] for j in range(7) if p[j] <= p[i])) + 1e-15


@pytest.mark.parametrize("changed", [{"plan": ""}, {"revision": "abc-dirty"}, {"rate": "0.02"}])
def test_runs_of_another_plan_code_or_rate_are_no_evidence(tmp_path, changed):
    write(tmp_path, [1.0], **changed)
    assert verdicts(tmp_path) == ["not run"]


def test_runs_of_other_seeds_are_no_evidence(tmp_path):
    write(tmp_path, [1.0], seeds=range(0, 10))
    assert verdicts(tmp_path) == ["not run"]


@pytest.mark.parametrize("gain", [1.0, 0.0, -1.0])
def test_the_second_control_is_tested_only_where_the_first_claim_holds(tmp_path, gain):
    write(tmp_path, [gain], {"controls": ["softmax", "temperature"]})
    first, second = found(tmp_path)
    assert first.p_holm is not None
    assert (second.p_holm is not None) is (gain > 0)


def test_a_loss_to_a_control_that_is_not_tested_is_called_one(tmp_path):
    write(tmp_path, [-1.0, 0.0], {"controls": ["softmax", "temperature"]})
    first, lost, _, level = found(tmp_path)
    assert first.verdict == "contradicted"
    assert lost.verdict == "no gain above the margin, a loss: not tested"
    assert level.verdict == "no gain above the margin"
    assert brief(lost.verdict) == "no gain > margin, a loss"


def changed(path, number, **cells):
    """Change cells in one row of the table."""
    rows = read_table(path)
    rows[number] = rows[number] | cells
    path.write_text(text(rows))


def refused(tmp_path, *said):
    """Check that the table of findings is refused in one line that contains these words."""
    with pytest.raises(UserError) as error:
        [*findings_table(tmp_path / "plan.yaml", tmp_path)]
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in said), error.value


def test_a_run_that_is_there_twice_is_refused(tmp_path):
    path = write(tmp_path, [1.0])
    rows = read_table(path)
    path.write_text(text([*rows, rows[3] | {"error@32": "9"}]))
    refused(tmp_path, str(path), "lines 5 and 22", "softmax, seed 101")


def test_runs_on_other_data_than_the_rest_are_refused(tmp_path):
    path = write(tmp_path, [1.0], data="one")
    assert verdicts(tmp_path) == ["supported"]
    changed(path, 3, data="another")
    refused(tmp_path, str(path), "line 5: other data")
    changed(path, 3, data="")
    refused(tmp_path, "line 5: other data")
    changed(path, 3, data="another", plan="")
    assert verdicts(tmp_path) == ["not run"]


@pytest.mark.parametrize("value", ["nan", "inf", "", "0", "-1"])
def test_a_run_that_diverged_is_named(tmp_path, value):
    changed(write(tmp_path, [1.0]), 3, **{"error@32": value})
    refused(tmp_path, "A.csv: softmax, seed 101", "error@32", value)


def test_a_measure_that_no_run_has_is_named(tmp_path):
    path = write(tmp_path, [1.0], measures=("eror@32",))
    path.write_text(path.read_text().replace("eror@32", "error@32"))
    refused(tmp_path, "A.csv: multimax, seed 100", "there is no eror@32")


def test_a_run_that_diverged_stops_nothing_before_its_arm_is_complete(tmp_path):
    path = write(tmp_path, [1.0, 1.0])
    changed(path, 1, **{"error@32": "nan"})
    drop(path, 20)
    assert verdicts(tmp_path) == ["not run", "supported"]


def test_a_figure_names_the_functions_that_each_verdict_is_against(tmp_path):
    path = write(tmp_path, [1.0], {"controls": ["softmax", "temperature"]})
    assert each_verdict(found(tmp_path)) == "supported (softmax, learned temperature)"
    # The last run is one with temperature.
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert each_verdict(found(tmp_path)) == "supported (softmax); not run (learned temperature)"


def test_more_primary_comparisons_make_each_harder(tmp_path):
    of = {}
    for count in (1, 8):
        write(tmp_path, [0.08] * count)
        of[count] = found(tmp_path)[0]
    assert of[8].p == of[1].p
    assert of[8].p_holm > of[1].p_holm
    assert of[8].detectable(of[8].measured[0]) > of[1].detectable(of[1].measured[0])


def test_what_is_secondary_is_not_among_the_tests(tmp_path):
    write(tmp_path, [1.0], {"primary": False})
    (of,) = found(tmp_path)
    assert of.p_holm is None
    assert of.verdict == "supported"


def test_the_evaluation_set_has_an_error_of_its_own(tmp_path):
    write(tmp_path, [1.0])
    assert found(tmp_path)[0].measured[0].examples_error is None
    column = "examples:error@32"
    rows = list(csv.DictReader((write(tmp_path, [1.0])).open()))
    values = {arm: torch.randn(50, generator=torch.Generator().manual_seed(0)) for arm in ("multimax", "softmax")}
    values["multimax"] = values["multimax"] + torch.arange(50.0)
    (tmp_path / "A.csv").write_text(text([row | {column: packed(values[row["arm"]])} for row in rows]))
    error = found(tmp_path)[0].measured[0].examples_error
    assert error == pytest.approx(torch.arange(50.0).std().item() / 50**0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("cell", "says"), [("xxx", "seed 100: examples:error@32 is damaged"), (packed(torch.ones(3)), "has 3 or 4")]
)
def test_values_of_single_examples_that_are_damaged_are_refused_in_one_line(tmp_path, cell, says):
    path = write(tmp_path, [1.0], **{"examples:error@32": packed(torch.ones(4))})
    rows = read_table(path)
    path.write_text(text([rows[0] | {"examples:error@32": cell}, *rows[1:]]))
    with pytest.raises(UserError, match=says) as refused:
        found(tmp_path)
    assert "\n" not in str(refused.value)


def test_the_setting_says_what_is_trained_on_what(root):
    words = {entry.id: setting(entry) for entry in read_plan(root / PLAN).values()}
    assert words["marked_mean"] == "marked mean, scores linear in the input"
    assert words["over_smoothing"] == "a small vision transformer on scikit-learn's 8x8 digits, depth 12, embed dim 48"
    assert all("on " in words[entry.id] for entry in read_plan(root / PLAN).values() if entry.problem == "train")


def test_an_experiment_of_one_s_own_is_called_by_its_name(tmp_path):
    write(tmp_path, [1.0])
    (entry,) = read_plan(tmp_path / "plan.yaml").values()
    assert setting(replace(entry, problem="train", overrides=("experiment=my_own",))) == "my own"


def test_the_table_says_what_was_found(tmp_path):
    write(tmp_path, [1.0, 0.0])
    (output,) = findings_table(tmp_path / "plan.yaml", tmp_path)
    rows = list(csv.DictReader(output.files[".csv"].decode().splitlines()))
    assert [row["verdict"] for row in rows] == ["supported", "no gain above the margin"]
    assert all(float(row["low"]) < float(row["high"]) for row in rows)
    assert b"| supported |" in output.files[".md"]


def test_a_plan_of_one_s_own_has_its_findings_in_a_folder_without_claims(tmp_path):
    write(tmp_path, [1.0])
    (tmp_path / "planned").mkdir()
    for path in tmp_path.glob("*.csv"):
        path.rename(tmp_path / "planned" / path.name)
    first, *_ = all_tables(tmp_path)
    assert b"| supported |" in first.files[".md"]


def test_the_documented_check_gives_the_row_of_the_table(root, monkeypatch):
    """The check in docs/method.md uses nothing of this package but the records."""
    monkeypatch.chdir(root)
    (code,) = re.findall(r"```python\n(.*?)```", (root / "docs/method.md").read_text(), re.S)
    assert "multimax.suite" not in code
    checked: dict = {}
    exec(code.replace("99_999", "999"), checked)
    of = next(of for of in findings(read_plan(root / PLAN), root / "results/planned"))
    assert (of.comparison.id, of.against) == ("marked_mean", "softmax")
    assert of.measured[0].gain.n == len(checked["gains"])
    assert of.measured[0].gain.mean == pytest.approx(sum(checked["gains"]) / len(checked["gains"]))


def test_a_record_of_the_repository_that_goes_missing_changes_the_verdicts_of_its_entry_alone(root, tmp_path):
    plan, folder = read_plan(root / PLAN), root / "results/planned"
    before = {(of.comparison.id, of.against): of for of in findings(plan, folder)}
    for missing in (name for name, entry in plan.items() if (folder / f"{name}.csv").exists()):
        shutil.copytree(folder, tmp_path / missing)
        rows = read_table(tmp_path / missing / f"{missing}.csv")
        planned = [row for row in rows if row["plan"]]
        if not planned:
            continue
        rows.remove(planned[0])
        (tmp_path / missing / f"{missing}.csv").write_text(text(rows))
        for of in findings(plan, tmp_path / missing):
            was = before[of.comparison.id, of.against]
            if of.entry.id != missing:
                assert (of.verdict, of.measured, of.p) == (was.verdict, was.measured, was.p)
            elif planned[0]["arm"] in (of.comparison.ours, of.against) and was.measured:
                assert of.verdict.startswith("not run")
