"""Verdicts follow from runs of exactly a claim's configuration, all of its seeds, and from nothing else."""

import csv
import json
from dataclasses import asdict, replace

import pytest
import yaml
from written_runs import write_run

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.errors import UserError
from multimax.suite.report.claim_tables import claim_tables
from multimax.suite.report.claims import (
    Comparison,
    Number,
    by_seed,
    configuration,
    difference_verdict,
    judge_comparison,
    judge_number,
    number_verdict,
    read_claims,
    stand_ins,
)
from multimax.suite.report.statistics import paired

NUMBER = Number("n", "made up", "log", "top1", "higher", ["task=deit", "reweight=softmax"], [0, 1], 80.0, 0.2)
COMPARISON = Comparison(
    "c", "made up", "log", "top1", "higher", ["task=deit"], [0, 1, 2], "reweight=multimax", ["reweight=softmax"]
)


def records(folder, values, *overrides, experiment=None):
    """Made-up records of runs with this configuration, one for each value, with seeds from 0 on."""
    config = asdict(typed(compose_configuration(overrides)))
    return [
        write_run(
            folder / f"{'-'.join(overrides)}-{seed}",
            config | {"seed": seed, "experiment": experiment},
            {"metric": "top1", "metrics": {"top1": value, "loss": 1.0}, "revision": "0" * 40},
        )
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([80.0, 80.2], "reproduced"),
        ([80.2, 80.2], "reproduced"),
        ([79.9, 79.7], "reproduced"),
        ([80.3, 80.2], "better"),
        ([79.7, 79.8], "not reproduced"),
        ([80.0], "not run"),
        ([], "not run"),
    ],
)
def test_verdicts_on_a_number(values, verdict):
    assert number_verdict(NUMBER, dict(enumerate(values))) == verdict
    lower = replace(NUMBER, better="lower", value=-80.0)
    assert number_verdict(lower, {seed: -value for seed, value in enumerate(values)}) == verdict


def test_what_could_not_be_read_is_not_available_whatever_ran():
    assert number_verdict(replace(NUMBER, value=None), {0: 80.0, 1: 80.0}) == "not available"


@pytest.mark.parametrize(
    ("differences", "margin", "verdict"),
    [
        ([1.0, 1.1, 0.9], 0.0, "reproduced"),
        ([-1.0, -1.1, -0.9], 0.0, "not reproduced"),
        ([1.0, -0.2, 0.5], 0.0, "not decided"),
        ([-0.1, -0.12, -0.08], 0.0, "not reproduced"),
        ([-0.1, -0.12, -0.08], 0.2, "reproduced"),
        ([1.0], 0.0, "not decided"),
    ],
)
def test_verdicts_on_a_claim_in_words(differences, margin, verdict):
    difference = paired(dict(enumerate(differences)), dict.fromkeys(range(3), 0.0))
    assert difference_verdict(replace(COMPARISON, margin=margin), difference) == verdict
    mirrored = paired(dict.fromkeys(range(3), 0.0), dict(enumerate(differences)))
    assert difference_verdict(replace(COMPARISON, margin=margin, better="lower"), mirrored) == verdict


def test_only_runs_of_the_claims_own_configuration_count(tmp_path):
    own = records(tmp_path, [80.0, 80.1], "task=deit", "reweight=softmax")
    others = [
        *records(tmp_path, [10.0, 10.0], "task=deit", "reweight=softmax", "training.epochs=1"),
        *records(tmp_path, [10.0, 10.0], "task=deit", "reweight=multimax"),
        *records(tmp_path, [10.0, 10.0], "task=deit", "reweight=multimax", "reweight/attention=softmax"),
    ]
    result = judge_number(NUMBER, [*others, *own])
    assert (result.verdict, result.records, result.measured.mean) == ("reproduced", own, pytest.approx(80.05))
    assert judge_number(NUMBER, others).verdict == "not run"
    assert judge_number(replace(NUMBER, metric="top9"), own).verdict == "not run"


def test_a_comparison_needs_all_its_pairs_and_stand_ins_give_no_verdict(tmp_path):
    softmax = records(tmp_path, [70.0, 71.0, 72.0], "task=deit", "reweight=softmax")
    multimax = records(tmp_path, [71.0, 72.0, 73.1], "task=deit", "reweight=multimax")
    (whole,) = judge_comparison(COMPARISON, [*softmax, *multimax])
    assert (whole.verdict, whole.difference.mean) == ("reproduced", pytest.approx(3.1 / 3))
    assert list(stand_ins(COMPARISON, [*softmax, *multimax])) == []
    (partly,) = judge_comparison(COMPARISON, [*softmax, *multimax[:2]])
    assert (partly.verdict, partly.difference.n) == ("not run", 2)

    choices = ("task=deit", "training.epochs=1")
    elsewhere = [
        *records(tmp_path, [60.0, 60.0, 60.0], *choices, "reweight=multimax", experiment="short"),
        *records(tmp_path, [50.0, 51.0, 50.0, 9.0], *choices, "reweight=softmax", experiment="short"),
    ]
    (nothing,) = judge_comparison(COMPARISON, elsewhere)
    assert (nothing.verdict, nothing.difference) == ("not run", None)
    (shown,) = stand_ins(COMPARISON, elsewhere)
    assert (shown.experiment, shown.difference.seeds, shown.others.mean) == ("short", (0, 1, 2), pytest.approx(151 / 3))
    assert len(shown.records) == 6


def test_two_records_of_one_run_are_refused(tmp_path):
    run = records(tmp_path, [1.0], "task=deit")
    with pytest.raises(UserError, match="another record"):
        by_seed([*run, *run], "top1")


def test_the_shipped_claims_are_whole(root):
    """Every claim can be read, and the runs that would test it are ones that ``train.py`` takes."""
    claims = read_claims(root / "results" / "claims.yaml")
    identifiers = [claim.id for claim in [*claims.numbers, *claims.comparisons]]
    assert len(identifiers) == len(set(identifiers))
    described = [configuration(*number.run) for number in claims.numbers if number.run]
    assert len({json.dumps(item) for item in described}) == len(described), "two claims are tested by the same runs"
    for task, function, setting in described:
        assert setting["scale"] == "paper", (task, function)
    for comparison in claims.comparisons:
        assert len({configuration(*comparison.run, each)[1] for each in [comparison.ours, *comparison.others]}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "hearsay"}, "not among the sources"),
        ({"better": "more"}, "higher or lower"),
        ({"run": None}, "needs"),
        ({"tolerance": None}, "without a tolerance"),
        ({"sede": [1]}, "unknown keys: sede"),
    ],
)
def test_a_claim_that_is_not_whole_is_named(tmp_path, change, message):
    path = tmp_path / "claims.yaml"
    entry = asdict(NUMBER) | change
    path.write_text(yaml.safe_dump({"sources": {"log": ""}, "numbers": [entry], "comparisons": [], "figure1": {}}))
    with pytest.raises(UserError, match=message):
        read_claims(path)


def test_the_tables_say_what_was_judged(tmp_path):
    runs = [
        *records(tmp_path, [70.0, 71.0, 72.0], "task=deit", "reweight=softmax"),
        *records(tmp_path, [71.0, 72.0, 73.1], "task=deit", "reweight=multimax"),
    ]
    path = tmp_path / "claims.yaml"
    content = {"sources": {"log": "a log"}, "numbers": [asdict(NUMBER)], "comparisons": [asdict(COMPARISON)]}
    path.write_text(yaml.safe_dump(content | {"figure1": {}}))
    numbers, comparisons, others = claim_tables(read_claims(path), path, runs)
    (row,) = csv.DictReader(numbers.files[".csv"].decode().splitlines())
    assert (row["verdict"], row["measured"], row["seeds"]) == ("not reproduced", "71.00", "3")
    (row,) = csv.DictReader(comparisons.files[".csv"].decode().splitlines())
    assert (row["verdict"], row["difference"], row["against"]) == ("reproduced", "+1.03", "softmax")
    assert [len(output.records) for output in (numbers, comparisons, others)] == [3, 6, 0]
