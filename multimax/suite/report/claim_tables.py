"""Tables of the claims with their verdicts, and a table of its own for what other settings and stand-in data show."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from multimax.suite.report.claims import (
    NOT_REPRODUCED,
    REPRODUCED,
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
from multimax.suite.report.outputs import Output, Row, table
from multimax.suite.report.statistics import Mean
from multimax.suite.runs import Run

MADE_BY = "Made by `python -m multimax.suite.report` from `results/claims.yaml` and `results/runs`."

NUMBERS = (
    "claim", "source", "reported", "tolerance", "seeds", "measured", "deviation", "interval", "verdict", "to test",
)  # fmt: skip
NUMBERS_TEXT = f"""# Numbers of the paper and its authors beside ours

{MADE_BY}
*Measured* is the mean over seeds with the sample standard deviation and the 95% interval of the mean (Student's t),
by runs of exactly the configuration in the last column. It is *reproduced* within the tolerance, *better* or *not
reproduced* beyond it, *not run* until all its seeds are there, and *not available* where the reported number could
not be read.

"""

COMPARISONS = ("claim", "against", "seeds", "difference", "deviation", "interval", "p", "verdict", "to test")
COMPARISONS_TEXT = f"""# Claims in words

{MADE_BY}
The difference is that of runs paired by seed, the claim's function minus the other, with the 95% interval of its mean
(Student's t) and the two-sided p-value; neither is corrected for the number of rows. *Reproduced*: the whole interval
agrees with the claim; *not reproduced*: the whole interval contradicts it; *not decided*: neither; *not run*: seeds
are missing.

"""

STAND_INS = (
    "claim", "experiment", "data", "metric", "against", "seeds", "ours", "other's", "difference", "interval", "p",
    "these runs", "pairs needed",
)  # fmt: skip
STAND_INS_TEXT = f"""# The same comparisons at other settings and on stand-in data

{MADE_BY}
None of these rows is a verdict on a claim: the models are smaller, the data are others or fewer. They say what these
runs show, by the same test as the claims': *as claimed* or *the opposite* where the whole 95% interval of the
difference paired by seed says so, else *not decided*. With three seeds an interval is 2.5 standard deviations of the
difference to either side, so that only a large effect is decided; with one pair none is. *Pairs needed* is how many
seeds would decide it if mean and standard deviation stayed as they are. Neither intervals nor p-values are corrected
for the number of rows.

"""
SHOWS = {REPRODUCED: "as claimed", NOT_REPRODUCED: "the opposite"}


def claim_tables(claims: Claims, path: Path, records: Sequence[Run]) -> Iterator[Output]:
    """The tables ``claims_numbers``, ``claims_comparisons`` and ``stand_ins``; ``path`` is that of the claims."""
    numbers = [judge_number(claim, records) for claim in claims.numbers]
    comparisons = [result for claim in claims.comparisons for result in judge_comparison(claim, records)]
    others = [result for claim in claims.comparisons for result in stand_ins(claim, records)]
    tables: list[tuple[str, str, tuple[str, ...], list[Row], Sequence[NumberResult | ComparisonResult]]] = [
        ("claims_numbers", NUMBERS_TEXT, NUMBERS, [number_row(result) for result in numbers], numbers),
        ("claims_comparisons", COMPARISONS_TEXT, COMPARISONS, [comparison_row(r) for r in comparisons], comparisons),
        ("stand_ins", STAND_INS_TEXT, STAND_INS, [stand_in_row(result) for result in others], others),
    ]
    legend = "\n" + "".join(f"- **{key}**: {source}\n" for key, source in claims.sources.items())
    for name, text, columns, rows, results in tables:
        used = {record.path: record for result in results for record in result.records}
        shown_with = legend if "source" in columns else ""
        yield table(name, text, ("id", *columns), rows, [used[key] for key in sorted(used)], [path], ["id"], shown_with)


def number_row(result: NumberResult) -> Row:
    claim, measured = result.claim, result.measured
    return {
        "id": claim.id,
        "claim": claim.claim,
        "source": claim.source,
        "reported": "not available" if claim.value is None else str(claim.value),
        "tolerance": "" if claim.tolerance is None else str(claim.tolerance),
        "seeds": seeds_text(measured, claim),
        "measured": mean_text(measured),
        "deviation": deviation_text(measured),
        "interval": interval_text(measured),
        "verdict": result.verdict,
        "to test": what_it_takes(claim),
    }


def comparison_row(result: ComparisonResult) -> Row:
    claim = result.claim
    return {
        "id": claim.id,
        "claim": claim.claim,
        "against": result.other,
        "seeds": seeds_text(result.difference, claim),
        "difference": mean_text(result.difference, "+", claim.digits),
        "deviation": deviation_text(result.difference, claim.digits),
        "interval": interval_text(result.difference, "+", claim.digits),
        "p": p_text(result),
        "verdict": result.verdict,
        "to test": what_it_takes(claim, result.other),
    }


def stand_in_row(result: ComparisonResult) -> Row:
    difference = result.difference
    assert difference is not None
    assert result.experiment is not None
    decided_by = None if difference.interval is None else difference.pairs_needed
    first, digits = result.records[0], result.claim.digits
    return {
        "id": result.claim.id,
        "claim": result.claim.claim,
        "experiment": result.experiment,
        "data": first.config["data"]["name"],
        "metric": result.claim.metric or first.summary["metric"],
        "against": result.other,
        "seeds": " ".join(map(str, difference.seeds)),
        "ours": mean_text(result.ours, digits=digits),
        "other's": mean_text(result.others, digits=digits),
        "difference": mean_text(difference, "+", digits),
        "interval": interval_text(difference, "+", digits),
        "p": p_text(result),
        "these runs": SHOWS.get(result.verdict, result.verdict),
        "pairs needed": "" if decided_by is None else str(decided_by),
    }


def what_it_takes(claim: Number | Comparison, other: str | None = None) -> str:
    """The command that makes the runs of a claim, or what is missing for there to be one."""
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


def mean_text(value: Mean | None, sign: str = "", digits: int = 2) -> str:
    return f"{value.mean:{sign}.{digits}f}" if value else ""


def deviation_text(value: Mean | None, digits: int = 2) -> str:
    return f"{value.deviation:.{digits}f}" if value and value.deviation is not None else ""


def interval_text(value: Mean | None, sign: str = "", digits: int = 2) -> str:
    if value is None or value.interval is None:
        return ""
    return " to ".join(f"{bound:{sign}.{digits}f}" for bound in value.interval)


def p_text(result: ComparisonResult) -> str:
    p = result.difference.p if result.difference else None
    return "" if p is None else f"{p:.3f}"
