"""Claims of ``results/claims.yaml`` against the recorded runs, and a verdict on each.

A verdict comes from runs of exactly the claim's configuration, with all of its seeds. A number is *reproduced* when the
mean over seeds is within the claim's tolerance, *better* or *not reproduced* beyond it. The tolerance stands for what
one run of the authors, whose seed and epoch are not known, may be off; an interval around three of ours would be wider
than any tolerance worth having, so that it is shown and does not decide. A claim in words says that one function is
better than another: it is *reproduced* when the whole interval of the paired difference agrees, *not reproduced* when
the whole interval disagrees, and else *not decided*, for few seeds that differ both ways speak neither for nor against.

Runs at another setting, or on data that stand in for the claim's, give no verdict; ``stand_ins`` has them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.config import reweight_label, setting
from multimax.suite.errors import UserError
from multimax.suite.report.records import final_metrics
from multimax.suite.report.statistics import Difference, Mean, mean_over_seeds, paired
from multimax.suite.runs import Run

REPRODUCED, BETTER, NOT_REPRODUCED = "reproduced", "better", "not reproduced"
NOT_DECIDED, NOT_RUN, NOT_AVAILABLE = "not decided", "not run", "not available"


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
        """What turns a difference into one that is positive where it is an improvement."""
        return 1 if self.better == "higher" else -1


@dataclass(frozen=True)
class Number(Claim):
    value: float | str | None
    tolerance: float | None = None
    needs: str | None = None


@dataclass(frozen=True)
class Comparison(Claim):
    ours: str
    others: Sequence[str]
    margin: float = 0.0
    digits: int = 2  # of what is shown behind the point


@dataclass(frozen=True)
class Claims:
    sources: Mapping[str, str]
    numbers: Sequence[Number]
    comparisons: Sequence[Comparison]
    figure1: Mapping[str, Any]


def read_claims(path: Path) -> Claims:
    """The claims of a file. Raises UserError for an entry that is not whole."""
    content = yaml.safe_load(path.read_text())
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
        if number.run is not None and number.value is not None and number.tolerance is None:
            raise UserError(f"{path}: claim {number.id} has a value without a tolerance")
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
    task, function, wanted = configuration(*overrides)
    return [
        record
        for record in records
        if record.config["task"] == task and record.function == function and record.setting == wanted
    ]


def by_seed(records: Iterable[Run], metric: str | None) -> dict[int, float]:
    """The metric, None for the one that a run is scored by, of those runs that have it, by seed.

    Raises UserError for two runs that differ in nothing.
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
    claim: Number
    records: Sequence[Run]
    measured: Mean | None
    verdict: str


@dataclass(frozen=True)
class ComparisonResult:
    """``experiment`` is None where the runs are the claim's own."""

    claim: Comparison
    experiment: str | None
    other: str
    records: Sequence[Run]
    ours: Mean | None
    others: Mean | None
    difference: Difference | None
    verdict: str


def judge_number(claim: Number, records: Sequence[Run]) -> NumberResult:
    found = runs_of(records, *claim.run) if claim.run else []
    values = by_seed(found, claim.metric)
    measured = mean_over_seeds(values.values()) if values else None
    return NumberResult(claim, found, measured, number_verdict(claim, values))


def number_verdict(claim: Number, values: Mapping[int, float]) -> str:
    """The verdict on a claim from the measured values by seed."""
    if claim.value is None:
        return NOT_AVAILABLE
    if claim.run is None or not set(claim.seeds) <= set(values):
        return NOT_RUN
    assert isinstance(claim.value, int | float)
    assert claim.tolerance is not None
    gain = claim.sign * (mean_over_seeds(values.values()).mean - claim.value)
    # a hair beyond the tolerance, for decimals that floats cannot hold
    if abs(gain) <= claim.tolerance + 1e-9:
        return REPRODUCED
    return BETTER if gain > 0 else NOT_REPRODUCED


def judge_comparison(claim: Comparison, records: Sequence[Run]) -> Iterator[ComparisonResult]:
    """One result for each function that the claim compares with."""
    assert claim.run is not None
    ours = runs_of(records, *claim.run, claim.ours)
    for choice in claim.others:
        others = runs_of(records, *claim.run, choice)
        result = _compare(claim, None, configuration(*claim.run, choice)[1], ours, others)
        if result.difference is None or not set(claim.seeds) <= set(result.difference.seeds):
            yield replace(result, verdict=NOT_RUN)
        else:
            yield result


def stand_ins(claim: Comparison, records: Sequence[Run]) -> Iterator[ComparisonResult]:
    """The comparison within every other experiment of the claim's task that has runs of both functions.

    The verdicts are about these runs, at their setting and on their data, and none of them is one on the claim.
    """
    assert claim.run is not None
    task, function, wanted = configuration(*claim.run, claim.ours)
    experiments = defaultdict(list)
    for record in records:
        if record.config["task"] == task and record.setting != wanted:
            experiments[record.experiment].append(record)
    for experiment, runs in experiments.items():
        ours = [record for record in runs if record.function == function]
        for choice in claim.others:
            other = configuration(*claim.run, choice)[1]
            result = _compare(claim, experiment, other, ours, [record for record in runs if record.function == other])
            if result.difference is not None:
                yield result


def _compare(
    claim: Comparison, experiment: str | None, other: str, ours: Sequence[Run], others: Sequence[Run]
) -> ComparisonResult:
    our_values, other_values = by_seed(ours, claim.metric), by_seed(others, claim.metric)
    difference = paired(our_values, other_values)
    seeds = difference.seeds if difference else ()
    return ComparisonResult(
        claim=claim,
        experiment=experiment,
        other=other,
        records=[record for record in [*ours, *others] if record.config["seed"] in seeds],
        ours=mean_over_seeds(our_values[seed] for seed in seeds) if seeds else None,
        others=mean_over_seeds(other_values[seed] for seed in seeds) if seeds else None,
        difference=difference,
        verdict=difference_verdict(claim, difference),
    )


def difference_verdict(claim: Comparison, difference: Difference | None) -> str:
    """What the interval of a paired difference says of a claim; of one pair or none it is not decided."""
    if difference is None or difference.interval is None:
        return NOT_DECIDED
    low, high = sorted(claim.sign * bound for bound in difference.interval)
    if low > -claim.margin:
        return REPRODUCED
    return NOT_REPRODUCED if high < -claim.margin else NOT_DECIDED
