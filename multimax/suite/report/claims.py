"""The claims in ``results/claims.yaml`` against the recorded runs, with a verdict on each.

A verdict comes from runs of exactly the claim's configuration, with all of its seeds; the texts in ``claim_tables`` say
what each means. If a row is about a change, such as MultiMax for softmax, the difference between the two rows is
judged, with runs paired by seed: their common level says nothing about the change. A reported difference within the
tolerance is *too close to tell*: two equal runs might differ by as much. What is reported in words, such as "does not
train", is *inconclusive* once its runs exist: a reader compares.

Runs at another setting, or on stand-in data, give no verdict; they are in ``stand_ins``.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.errors import UserError
from multimax.suite.identity import reweight_label, setting
from multimax.suite.report.metrics import possible
from multimax.suite.report.records import final_metrics
from multimax.suite.report.statistics import Difference, Mean, mean_over_seeds, paired
from multimax.suite.runs import Run

REPRODUCED, BETTER, NOT_REPRODUCED, TOO_CLOSE = "reproduced", "better", "not reproduced", "too close to tell"
SUPPORTED, CONTRADICTED, NO_GAIN = "supported", "contradicted", "no gain above the margin"
INCONCLUSIVE, NOT_RUN, NOT_AVAILABLE = "inconclusive", "not run", "not available"


@dataclass(frozen=True)
class Claim:
    """What all claims have in common; the fields are explained at the top of ``results/claims.yaml``."""

    id: str
    claim: str
    source: str
    metric: str | None
    better: str  # higher | lower
    run: Sequence[str] | None
    seeds: Sequence[int]

    @property
    def sign(self) -> int:
        """The factor, 1 or -1, that makes improvements positive."""
        return 1 if self.better == "higher" else -1


@dataclass(frozen=True)
class Number(Claim):
    value: float | str | None
    tolerance: float | None = None
    over: str | None = None
    needs: str | None = None


@dataclass(frozen=True)
class Comparison(Claim):
    ours: str
    others: Sequence[str]
    margin: float | str | None = None
    stand_in_margin: float | str | None = None
    at_least: float = 0.0
    digits: int = 2


@dataclass(frozen=True)
class Claims:
    sources: Mapping[str, str]
    numbers: Sequence[Number]
    comparisons: Sequence[Comparison]
    figure1: Mapping[str, Any]


def read_claims(path: Path) -> Claims:
    """The claims of a file. Raises UserError for an incomplete entry."""
    if not path.is_file():
        raise UserError(f"there is no {path}: --results names a folder that has the claims, as results/ does")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    numbers = [_claim(path, Number, entry) for entry in content["numbers"]]
    comparisons = [_claim(path, Comparison, entry) for entry in content["comparisons"]]
    claims = Claims(content["sources"], numbers, comparisons, content["figure1"])
    for claim in [*numbers, *comparisons]:
        if claim.source not in claims.sources:
            raise UserError(f"{path}: claim {claim.id} has source {claim.source}, which is not among the sources")
        if claim.better not in ("higher", "lower"):
            raise UserError(f"{path}: claim {claim.id} has better: {claim.better}; it is higher or lower")
    for number in numbers:
        if number.run is None and number.needs is None:
            raise UserError(f"{path}: claim {number.id} has no run: say with needs: what it takes to test it")
        if number.run is not None and _are_numbers(number.value) and number.tolerance is None:
            raise UserError(f"{path}: claim {number.id} has a value without a tolerance")
        if number.over is not None and not any(other.id == number.over and other.run for other in numbers):
            raise UserError(f"{path}: claim {number.id} is over {number.over}, which is not a number with a run")
    return claims


def _claim(path: Path, kind: type, entry: Mapping[str, Any]) -> Any:
    unknown = set(entry) - {item.name for item in fields(kind)}
    if unknown:
        raise UserError(f"{path}: claim {entry.get('id')} has unknown keys: {', '.join(sorted(unknown))}")
    try:
        return kind(**entry)
    except TypeError as error:
        raise UserError(f"{path}: claim {entry.get('id')}: {error}") from None


@cache
def configuration(*overrides: str) -> tuple[str, str, dict[str, Any]]:
    """Task, function and setting of the runs that ``train.py`` makes with these arguments."""
    config = typed(compose_configuration(overrides))
    values = asdict(config)
    return config.task, reweight_label(values["reweight"]), setting(values, type(config))


def runs_of(records: Iterable[Run], *overrides: str) -> list[Run]:
    """The records of runs with exactly this configuration, whatever their seed."""
    task, function, numbers = configuration(*overrides)
    return [
        record
        for record in records
        if record.config["task"] == task and record.function == function and record.setting == numbers
    ]


def tests(claims: Claims) -> Iterator[tuple[Claim, Sequence[str]]]:
    """Each claim with the ``train.py`` arguments, except the seed, of each kind of run that tests it."""
    for number in claims.numbers:
        if number.run:
            yield number, number.run
    for of in claims.comparisons:
        for choice in (of.ours, *of.others):
            yield of, [*(of.run or ()), choice]


def wanted(claims: Claims, pattern: str = "*") -> list[list[str]]:
    """The ``train.py`` arguments, with seeds, that make the runs of the claims whose names match ``pattern``.

    One entry per configuration, however many claims it tests. Raises UserError if nothing matches.
    """
    found: dict[str, tuple[Sequence[str], set[int]]] = {}
    for claim, overrides in tests(claims):
        if fnmatch(claim.id, pattern):
            key = json.dumps(configuration(*overrides), sort_keys=True)
            found.setdefault(key, (overrides, set()))[1].update(claim.seeds)
    if not found:
        names = ", ".join(dict.fromkeys(claim.id for claim, _ in tests(claims)))
        raise UserError(f"no claim with a run is called {pattern}: there are {names}")
    return [[*overrides, f"seed={','.join(map(str, sorted(seeds)))}"] for overrides, seeds in found.values()]


def by_seed(records: Iterable[Run], metric: str | None) -> dict[int, float]:
    """Values of ``metric`` (None: the one a run is scored by), by seed, for the runs that have it.

    Raises UserError for two runs of one configuration and seed.
    """
    values: dict[int, float] = {}
    for record in records:
        value = final_metrics(record).get(metric or record.summary["metric"])
        if value is None:
            continue
        seed = record.config["seed"]
        if seed in values:
            raise UserError(f"{record.path} has the configuration and the seed of another record: remove one of them")
        values[seed] = value
    return values


@dataclass(frozen=True)
class NumberResult:
    """``reported`` and ``difference`` are relative to the row that the claim is ``over``; None if there is none."""

    claim: Number
    records: Sequence[Run]
    measured: Mean | None
    reported: float | None
    difference: Difference | None
    verdict: str


@dataclass(frozen=True)
class ComparisonResult:
    """``experiment`` is None if the runs are the claim's own."""

    claim: Comparison
    experiment: str | None
    other: str
    records: Sequence[Run]
    ours: Mean | None
    others: Mean | None
    difference: Difference | None
    margin: float | None
    verdict: str


def judge_number(claim: Number, numbers: Sequence[Number], records: Sequence[Run]) -> NumberResult:
    """The result for one of ``numbers``, compared with the number it is over, if any."""
    found, values = _measured(claim, records)
    measured = mean_over_seeds(values.values(), possible(claim.metric or "")) if values else None
    if claim.over is None:
        return NumberResult(claim, found, measured, None, None, number_verdict(claim, claim.value, values, measured))
    base = next(number for number in numbers if number.id == claim.over)
    base_found, base_values = _measured(base, records)
    difference = paired(values, base_values)
    reported = claim.value - base.value if _are_numbers(claim.value, base.value) else None  # type: ignore[operator]
    both = values.keys() & base_values.keys()
    return NumberResult(
        claim, [*found, *base_found], measured, reported, difference, number_verdict(claim, reported, both, difference)
    )


def _measured(claim: Number, records: Sequence[Run]) -> tuple[list[Run], dict[int, float]]:
    found = runs_of(records, *claim.run) if claim.run else []
    return found, by_seed(found, claim.metric)


def _are_numbers(*values: object) -> bool:
    return all(isinstance(value, int | float) for value in values)


def number_verdict(claim: Number, reported: object, seeds: Iterable[int], measured: Mean | None) -> str:
    """The verdict on a reported level or difference, given what was measured with these seeds."""
    if claim.value is None:
        return NOT_AVAILABLE
    if claim.over is not None and isinstance(reported, float) and abs(reported) <= (claim.tolerance or 0.0):
        return TOO_CLOSE
    if claim.run is None or not set(claim.seeds) <= set(seeds) or measured is None or measured.interval is None:
        return NOT_RUN
    if isinstance(reported, str):
        return INCONCLUSIVE
    assert isinstance(reported, int | float)
    assert claim.tolerance is not None
    low, high = sorted(claim.sign * (bound - reported) for bound in measured.interval)
    if low >= -claim.tolerance and high <= claim.tolerance:
        return REPRODUCED
    if low > claim.tolerance:
        return BETTER
    return NOT_REPRODUCED if high < -claim.tolerance else INCONCLUSIVE


def judge_comparison(claim: Comparison, records: Sequence[Run]) -> Iterator[ComparisonResult]:
    """One result for each function that the claim compares with."""
    assert claim.run is not None
    ours = runs_of(records, *claim.run, claim.ours)
    for choice in claim.others:
        others = runs_of(records, *claim.run, choice)
        result = _compare(claim, None, configuration(*claim.run, choice)[1], ours, others, claim.margin)
        if result.difference is None or not set(claim.seeds) <= set(result.difference.seeds):
            yield replace(result, verdict=NOT_RUN)
        else:
            yield result


def stand_ins(claim: Comparison, records: Sequence[Run]) -> Iterator[ComparisonResult]:
    """The same comparison within every other experiment of the claim's task that has runs of both functions.

    These verdicts are about those runs, at their setting and on their data; none is a verdict on the claim. Runs
    without the claim's test score are compared by what they are scored by.
    """
    assert claim.run is not None
    task, function, own = configuration(*claim.run, claim.ours)
    experiments = defaultdict(list)
    for record in records:
        if record.config["task"] == task and record.setting != own:
            experiments[record.experiment, record.config.get("numerics", 1)].append(record)
    for (experiment, _), runs in experiments.items():
        by_score = claim
        measured = {metric for record in runs for metric in final_metrics(record)}
        if (claim.metric or "").startswith("test_") and claim.metric not in measured:
            by_score = replace(claim, metric=None)
        ours = [record for record in runs if record.function == function]
        for choice in claim.others:
            other = configuration(*claim.run, choice)[1]
            others = [record for record in runs if record.function == other]
            result = _compare(by_score, experiment, other, ours, others, claim.stand_in_margin)
            if result.difference is not None:
                yield result


def _compare(
    claim: Comparison,
    experiment: str | None,
    other: str,
    ours: Sequence[Run],
    others: Sequence[Run],
    margin: float | str | None,
) -> ComparisonResult:
    our_values, other_values = by_seed(ours, claim.metric), by_seed(others, claim.metric)
    difference = paired(our_values, other_values)
    seeds = difference.seeds if difference else ()
    our_mean, other_mean = (
        mean_over_seeds(of[seed] for seed in seeds) if seeds else None for of in (our_values, other_values)
    )
    in_units = in_units_of(margin, other_mean)
    return ComparisonResult(
        claim=claim,
        experiment=experiment,
        other=other,
        records=[record for record in [*ours, *others] if record.config["seed"] in seeds],
        ours=our_mean,
        others=other_mean,
        difference=difference,
        margin=in_units,
        verdict=difference_verdict(claim, difference, in_units),
    )


def in_units_of(margin: float | str | None, of: Mean | None) -> float | None:
    """A margin in the metric's units; a text such as "1%" means that share of the mean ``of``."""
    if isinstance(margin, str):
        return None if of is None else float(margin.removesuffix("%")) / 100 * of.mean
    return margin


def difference_verdict(claim: Comparison, difference: Difference | None, margin: float | None) -> str:
    """The verdict given by the interval of a paired difference; inconclusive with fewer than two pairs."""
    if difference is None or difference.interval is None:
        return INCONCLUSIVE
    low, high = sorted(claim.sign * bound for bound in difference.interval)
    if low > claim.at_least:
        return SUPPORTED
    if high < claim.at_least:
        return CONTRADICTED
    return NO_GAIN if margin is not None and high < margin else INCONCLUSIVE
