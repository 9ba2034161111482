"""Verdicts follow from runs of exactly a claim's configuration, all its seeds, and nothing else."""

import csv
import json
from dataclasses import asdict, replace
from functools import cache

import pytest
import yaml
from written_runs import write_run

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.errors import UserError
from multimax.suite.identity import run_name
from multimax.suite.report.claim_tables import claim_tables
from multimax.suite.report.claims import (
    Comparison,
    Number,
    by_seed,
    configuration,
    difference_verdict,
    in_units_of,
    judge_comparison,
    judge_number,
    number_verdict,
    read_claims,
    stand_ins,
    wanted,
)
from multimax.suite.report.statistics import mean_over_seeds, paired

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
        ([80.0, 80.0], "reproduced"),
        ([80.19, 80.2], "inconclusive"),  # the mean is within the tolerance, its interval is not
        ([80.2, 80.2], "reproduced"),
        ([79.79, 79.8], "inconclusive"),
        ([80.31, 80.3], "better"),
        ([79.7, 79.69], "not reproduced"),
        ([78.0, 82.0], "inconclusive"),
        ([80.0], "not run"),
        ([], "not run"),
    ],
)
def test_verdicts_on_a_number(values, verdict):
    claim = replace(NUMBER, value=80.0, tolerance=0.2 + 1e-9)
    for sign, of in ((1, claim), (-1, replace(claim, better="lower", value=-80.0))):
        own = {seed: sign * value for seed, value in enumerate(values)}
        measured = mean_over_seeds(own.values()) if own else None
        assert number_verdict(of, of.value, own, measured) == verdict


def test_what_could_not_be_read_is_not_available_whatever_ran():
    claim = replace(NUMBER, value=None)
    assert number_verdict(claim, None, {0, 1}, mean_over_seeds([80.0, 80.0])) == "not available"


@pytest.mark.parametrize(
    ("reported", "gains", "verdict"),
    [
        (81.0, [1.0, 1.05, 0.95], "reproduced"),
        (81.0, [0.0, 0.05, -0.05], "not reproduced"),
        (81.0, [2.0, 2.05, 1.95], "better"),
        (81.0, [1.0, 3.0, -1.0], "inconclusive"),
        (80.1, [0.1, 0.1, 0.1], "too close to tell"),
    ],
)
@pytest.mark.parametrize("level", [0.0, -30.0])
def test_a_row_over_another_is_judged_by_their_difference_at_any_level(tmp_path, reported, gains, verdict, level):
    seeds = [0, 1, 2]
    base = replace(NUMBER, seeds=seeds)
    claim = replace(
        base, id="m", value=reported, over="n", tolerance=0.3, run=["task=deit", "reweight=multimax"], seeds=seeds
    )
    softmax = [level + seed for seed in (70.0, 75.0, 71.0)]
    multimax = [value + gain for value, gain in zip(softmax, gains, strict=True)]
    runs = [
        *records(tmp_path, softmax, "task=deit", "reweight=softmax"),
        *records(tmp_path, multimax, "task=deit", "reweight=multimax"),
    ]
    result = judge_number(claim, [base, claim], runs)
    assert (result.verdict, result.reported) == (verdict, pytest.approx(reported - 80.0))
    missing = judge_number(claim, [base, claim], runs[1:])
    assert missing.verdict == ("too close to tell" if verdict == "too close to tell" else "not run")


@pytest.mark.parametrize(
    ("differences", "at_least", "margin", "verdict"),
    [
        ([1.0, 1.1, 0.9], 0.0, None, "supported"),
        ([-1.0, -1.1, -0.9], 0.0, None, "contradicted"),
        ([1.0, -0.2, 0.5], 0.0, None, "inconclusive"),
        ([-0.1, -0.12, -0.08], 0.0, None, "contradicted"),
        ([-0.1, -0.12, -0.08], -0.2, None, "supported"),
        ([0.1, -0.1, 0.05], 0.0, 1.0, "no gain above the margin"),
        ([0.1, -0.1, 0.05], 0.0, 0.1, "inconclusive"),
        ([1.0], 0.0, 2.0, "inconclusive"),
    ],
)
def test_verdicts_on_a_claim_in_words(differences, at_least, margin, verdict):
    values, zeros = dict(enumerate(differences)), dict.fromkeys(range(3), 0.0)
    claim = replace(COMPARISON, at_least=at_least)
    assert difference_verdict(claim, paired(values, zeros), margin) == verdict
    assert difference_verdict(replace(claim, better="lower"), paired(zeros, values), margin) == verdict


def test_what_is_reported_in_words_is_for_a_reader_to_compare(tmp_path):
    claim = replace(NUMBER, value="does not train", tolerance=None)
    runs = records(tmp_path, [50.0, 50.0], *NUMBER.run)
    assert judge_number(claim, [claim], runs).verdict == "inconclusive"
    assert judge_number(claim, [claim], runs[1:]).verdict == "not run"


def test_a_margin_may_be_a_share():
    assert in_units_of("1%", mean_over_seeds([110.0, 120.0])) == pytest.approx(1.15)
    assert in_units_of(0.5, None) == 0.5
    assert in_units_of("1%", None) is None


def test_only_runs_of_the_claims_own_configuration_count(tmp_path):
    own = records(tmp_path, [80.05, 80.06], "task=deit", "reweight=softmax")
    others = [
        *records(tmp_path, [10.0, 10.0], "task=deit", "reweight=softmax", "training.epochs=1"),
        *records(tmp_path, [10.0, 10.0], "task=deit", "reweight=multimax"),
        *records(tmp_path, [10.0, 10.0], "task=deit", "reweight=multimax", "reweight/attention=softmax"),
    ]
    result = judge_number(NUMBER, [], [*others, *own])
    assert (result.verdict, result.records, result.measured.mean) == ("reproduced", own, pytest.approx(80.055))
    assert judge_number(NUMBER, [], others).verdict == "not run"
    assert judge_number(replace(NUMBER, metric="top9"), [], own).verdict == "not run"


def test_a_comparison_needs_all_its_pairs_and_stand_ins_give_no_verdict(tmp_path):
    softmax = records(tmp_path, [70.0, 71.0, 72.0], "task=deit", "reweight=softmax")
    multimax = records(tmp_path, [71.0, 72.0, 73.1], "task=deit", "reweight=multimax")
    (whole,) = judge_comparison(COMPARISON, [*softmax, *multimax])
    assert (whole.verdict, whole.difference.mean) == ("supported", pytest.approx(3.1 / 3))
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
    """Every claim can be read, and the configurations of the runs that would test it compose."""
    claims = read_claims(root / "results" / "claims.yaml")
    identifiers = [claim.id for claim in [*claims.numbers, *claims.comparisons]]
    assert len(identifiers) == len(set(identifiers))
    described = [configuration(*number.run) for number in claims.numbers if number.run]
    assert len({json.dumps(item) for item in described}) == len(described), "two claims are tested by the same runs"
    values = {number.id: number.value for number in claims.numbers}
    assert all(number.value > values[number.over] for number in claims.numbers if number.over)
    for task, function, setting in described:
        assert setting["scale"] == "paper", (task, function)
    for comparison in claims.comparisons:
        assert len({configuration(*comparison.run, each)[1] for each in [comparison.ours, *comparison.others]}) > 1


def test_the_sweep_has_the_runs_of_each_claim_once_and_no_others(root):
    claims = read_claims(root / "results" / "claims.yaml")

    @cache
    def config(*overrides):
        return typed(compose_configuration(overrides))

    def names(overrides, seeds):
        return {run_name(replace(config(*overrides), seed=int(seed))) for seed in seeds}

    asked = set[str]()
    for number in claims.numbers:
        asked |= names(number.run, number.seeds) if number.run else set()
    for comparison in claims.comparisons:
        for function in (comparison.ours, *comparison.others):
            asked |= names([*comparison.run, function], comparison.seeds)
    swept = [names(overrides, seeds.removeprefix("seed=").split(",")) for *overrides, seeds in wanted(claims)]
    assert set().union(*swept) == asked
    assert sum(map(len, swept)) == len(asked)
    assert {name.split("-")[2] for name in asked if name.startswith("lm-")} == {"softmax", "multimax"}
    with pytest.raises(UserError, match=r"no claim with a run is called wikitext2-\*: there are .*wikitext103-softmax"):
        wanted(claims, "wikitext2-*")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "hearsay"}, "not among the sources"),
        ({"better": "more"}, "higher or lower"),
        ({"run": None}, "needs"),
        ({"tolerance": None}, "without a tolerance"),
        ({"sede": [1]}, "unknown keys: sede"),
        ({"over": "nothing"}, "over nothing, which is not a number with a run"),
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
    assert (row["verdict"], row["difference"], row["against"]) == ("supported", "+1.03", "softmax")
    assert [len(output.records) for output in (numbers, comparisons, others)] == [3, 6, 0]
