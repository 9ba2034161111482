"""Tables of the claims with their verdicts, and a separate table for runs at other settings and on stand-in data."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from multimax.suite.report.claims import (
    Claims,
    Comparison,
    ComparisonResult,
    Number,
    NumberResult,
    configuration,
    judge_comparison,
    judge_number,
    stand_ins,
)
from multimax.suite.report.outputs import Output, Row, number, span, table
from multimax.suite.report.statistics import Mean, detectable, pairs_needed
from multimax.suite.report.tables import holm_of
from multimax.suite.runs import Run

MADE_BY = "Made by `python -m multimax.suite.report` from `results/claims.yaml` and `results/runs`."

NUMBERS = (
    "claim", "source", "reported", "over", "reported difference", "tolerance", "seeds", "measured", "deviation",
    "interval", "measured difference", "of the difference", "from elsewhere", "verdict", "to test",
)  # fmt: skip
NUMBERS_TEXT = f"""# Numbers of the paper and its authors beside ours

{MADE_BY}
*Measured* is the mean over seeds with the sample standard deviation and the 95% interval of the mean (Student's t),
by runs of exactly the configuration in the last column. A row that is *over* another one is judged by the difference
between the two, paired by seed, else by its level. It is *reproduced* where the whole interval is within the tolerance,
*better* or *not reproduced* where the whole interval is beyond it, else *inconclusive*; *too close to tell* where the
reported difference is no larger than the tolerance, *not run* until all its seeds are there, and *not available* where
the reported number could not be read. *From elsewhere* are
runs that others sent. How long a step takes here is in [`step_overhead.md`](step_overhead.md).

"""

COMPARISONS = (
    "claim", "against", "seeds", "difference", "deviation", "interval", "margin", "p", "p Holm", "from elsewhere",
    "verdict", "to test",
)  # fmt: skip
COMPARISONS_TEXT = f"""# Claims in words

{MADE_BY}
The difference is that of runs paired by seed, the claim's function minus the other, with the 95% interval of its mean
(Student's t) and the two-sided p-value, as it is and adjusted for the rows (Holm). *Supported*: the whole interval
agrees with the claim; *contradicted*: the whole interval disagrees; *no gain above the margin*: no gain as large as
the margin, the smallest of interest, is in the interval; *inconclusive*: none of these; *not run*: seeds are missing.
*From elsewhere*: runs that others sent ([how](../../docs/contributing-runs.md)).

"""

STAND_INS = (
    "claim", "experiment", "data", "metric", "against", "seeds", "ours", "other's", "difference", "interval", "margin",
    "p", "p Holm", "sign flip", "correlation", "from elsewhere", "these runs", "detectable", "pairs needed",
)  # fmt: skip
STAND_INS_TEXT = f"""# The same comparisons at other settings and on stand-in data

{MADE_BY}
None of these rows is a verdict on a claim: the models are smaller, the data are others or fewer. They say what these
runs show, by the same test as the claims'. With three seeds an interval is 2.5 standard deviations of the difference to
either side, so that only a large effect is decided; with one pair none is. *Detectable* is the true difference that so
many pairs find in four cases of five, *pairs needed* how many would find the one that was measured as often, both for a
two-sided test at .05 and if the standard deviation is what was found; that of three differences is itself only known to
lie between .52 and 6.3 times that. *Correlation* is that of the two functions over seeds: where it is low or negative,
pairing removes no noise. *p Holm* is adjusted for all rows of this table, intervals are not.

"""


def claim_tables(claims: Claims, path: Path, records: Sequence[Run]) -> Iterator[Output]:
    """The tables ``claims_numbers``, ``claims_comparisons`` and ``stand_ins``; ``path`` is the claims' file."""
    numbers = [judge_number(claim, claims.numbers, records) for claim in claims.numbers]
    rows = [number_row(result) for result in numbers]
    legend = "\n" + "".join(f"- **{key}**: {source}\n" for key, source in claims.sources.items())
    yield table("claims_numbers", NUMBERS_TEXT, ("id", *NUMBERS), rows, used(numbers), [path], ["id"], legend)
    for name, text, columns, row, judge in (
        ("claims_comparisons", COMPARISONS_TEXT, COMPARISONS, comparison_row, judge_comparison),
        ("stand_ins", STAND_INS_TEXT, STAND_INS, stand_in_row, stand_ins),
    ):
        results = [result for claim in claims.comparisons for result in judge(claim, records)]
        adjusted = holm_of({i: result.difference for i, result in enumerate(results)})
        rows = [row(result, adjusted.get(i)) for i, result in enumerate(results)]
        yield table(name, text, ("id", *columns), rows, used(results), [path], ["id"])


def used(results: Sequence[NumberResult] | Sequence[ComparisonResult]) -> list[Run]:
    """The runs behind the results, each once, by path."""
    records = {record.path: record for result in results for record in result.records}
    return [records[path] for path in sorted(records)]


def number_row(result: NumberResult) -> Row:
    claim, measured, difference = result.claim, result.measured, result.difference
    return {
        "id": claim.id,
        "claim": claim.claim,
        "source": claim.source,
        "reported": "not available" if claim.value is None else str(claim.value),
        "over": claim.over or "",
        "reported difference": number(result.reported, "+"),
        "tolerance": "" if claim.tolerance is None else str(claim.tolerance),
        "seeds": seeds_text(difference if claim.over else measured, claim),
        "measured": number(measured.mean) if measured else "",
        "deviation": number(measured.deviation) if measured else "",
        "interval": span(measured.interval) if measured else "",
        "measured difference": number(difference.mean, "+") if difference else "",
        "of the difference": span(difference.interval, "+") if difference else "",
        "from elsewhere": elsewhere(result.records),
        "verdict": result.verdict,
        "to test": what_it_takes(claim),
    }


def comparison_row(result: ComparisonResult, adjusted: float | None) -> Row:
    return {
        **tested(result, adjusted),
        "seeds": seeds_text(result.difference, result.claim),
        "deviation": number(result.difference.deviation, digits=result.claim.digits) if result.difference else "",
        "verdict": result.verdict,
        "to test": what_it_takes(result.claim, result.other),
    }


def tested(result: ComparisonResult, adjusted: float | None) -> Row:
    """The cells that a claim's own runs and its stand-ins have in common."""
    difference, digits = result.difference, result.claim.digits
    return {
        "id": result.claim.id,
        "claim": result.claim.claim,
        "against": result.other,
        "from elsewhere": elsewhere(result.records),
        "difference": number(difference.mean, "+", digits) if difference else "",
        "interval": span(difference.interval, "+", digits) if difference else "",
        "margin": number(result.margin, digits=digits),
        "p": number(difference.p, digits=3) if difference else "",
        "p Holm": number(adjusted, digits=3),
    }


def stand_in_row(result: ComparisonResult, adjusted: float | None) -> Row:
    difference, digits, first = result.difference, result.claim.digits, result.records[0]
    assert difference is not None
    assert result.experiment is not None
    row = {
        **tested(result, adjusted),
        "experiment": result.experiment,
        "data": first.config["data"]["name"],
        "metric": result.claim.metric or first.summary["metric"],
        "seeds": " ".join(map(str, difference.seeds)),
        "ours": number(result.ours.mean, digits=digits) if result.ours else "",
        "other's": number(result.others.mean, digits=digits) if result.others else "",
        "sign flip": number(difference.p_sign_flip, digits=3),
        "correlation": number(difference.correlation, "+"),
        "these runs": result.verdict,
    }
    if difference.deviation:
        needed = pairs_needed(difference.mean, difference.deviation)
        row["detectable"] = number(detectable(difference.deviation, difference.n), digits=digits)
        row["pairs needed"] = "over 1000" if needed is None else str(needed)
    return row


def elsewhere(records: Sequence[Run]) -> str:
    """How many of the runs were merged, and from whom; empty if none."""
    names = Counter(record.origin["from"] or "not named" for record in records if record.origin)
    told = ", ".join(f"{name} {count}" for name, count in sorted(names.items()))
    return f"{names.total()} of {len(records)}{f' ({told})' if told else ''}" if records else ""


def what_it_takes(claim: Number | Comparison, other: str | None = None) -> str:
    """The command that makes a claim's runs, or what is missing to run it."""
    seeds = "seed=" + ",".join(map(str, claim.seeds))
    if isinstance(claim, Number):
        return f"`python train.py -m {' '.join(claim.run)} {seeds}`" if claim.run else f"needs {claim.needs}"
    assert claim.run is not None
    choices = [claim.ours, *claim.others]
    if other is not None:
        choices = [claim.ours, *(choice for choice in claim.others if configuration(*claim.run, choice)[1] == other)]
    names = ",".join(choice.partition("=")[2] for choice in choices)
    return f"`python train.py -m {' '.join(claim.run)} reweight={names} {seeds}`"


def seeds_text(value: Mean | None, claim: Number | Comparison) -> str:
    n, needed = value.n if value else 0, len(claim.seeds)
    return str(n) if n >= needed else f"{n} of {needed}"
