"""Findings: a verdict on each comparison of the plan, from the runs that the plan asked for and from no others."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from multimax.suite.mechanisms.table import read_table
from multimax.suite.plan import Comparison, read_plan
from multimax.suite.report.outputs import Output, Row, table
from multimax.suite.report.statistics import LEVEL, Difference, detectable, holm, paired
from multimax.suite.report.texts import number, span

COLUMNS = (
    "comparison", "claim", "setting", "primary", "against", "statistic", "n", "effect", "low", "high", "margin", "p",
    "p_sign_flip", "p_holm", "verdict", "plan",
)  # fmt: skip
CSV_ONLY = ("low", "high", "p_sign_flip", "plan")
TEXT = """# Findings

Made by `python -m multimax.suite.report` from `results/plan.yaml` and the runs that it asks for: with the plan's
revision of the code, its seeds and the digest of its entry. *Effect* is the mean over seeds of what MultiMax gains on
the other function, so that above zero MultiMax is the better one, with the 95% interval (Student's t); of an error it
is the gain in its natural logarithm. *p* is two-sided, of the paired t test, or of sign flips where the statistic is a
logarithm; *p Holm* is adjusted for the primary comparisons. The second control is tested where the first one's claim
holds, and its p is multiplied by the number of primary comparisons. Verdicts: *supported*, *contradicted*, *no effect
above the margin* (the interval excludes a gain as large as the margin, the smallest of interest), *inconclusive* with
the effect that so many pairs find in four cases of five, and *not run* until all seeds of the plan are there.

"""


@dataclass(frozen=True)
class Finding:
    """``ours`` against one of the controls of ``comparison``. ``p_holm`` is None for what is not tested."""

    comparison: Comparison
    against: str
    difference: Difference | None  # of the gains; None until all seeds are there
    there: int  # seeds
    p: float | None = None
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        planned = len(self.comparison.seeds)
        if self.difference is None:
            return "not run" if not self.there else f"not run: {self.there} of {planned} seeds"
        assert self.difference.interval is not None
        level = self.p_holm if self.comparison.primary else self.p
        if level is not None and level < LEVEL:
            return "supported" if self.difference.mean > 0 else "contradicted"
        if self.difference.interval[1] < self.comparison.margin:
            return "no effect above the margin"
        assert self.difference.deviation is not None
        return f"inconclusive: {number(detectable(self.difference.deviation, planned))} would be seen"


def findings(plan: Mapping[str, Comparison], folder: Path) -> list[Finding]:
    """Each comparison against each of its controls; ``folder`` has the tables of runs, PROBLEM.csv."""
    values = {name: confirming(comparison, folder) for name, comparison in plan.items()}
    found = [
        judged(comparison, control, values[name])
        for name, comparison in plan.items()
        for control in comparison.controls
    ]
    primary = [of for of in found if of.comparison.primary and of.against == of.comparison.controls[0]]
    # What has not run yet keeps its place among the tests: a verdict does not change when it comes.
    adjusted = holm([1.0 if of.p is None else of.p for of in primary])
    first = {of.comparison.id: p for of, p in zip(primary, adjusted, strict=True)}
    return [with_holm(of, first, len(primary)) for of in found]


def confirming(comparison: Comparison, folder: Path) -> dict[str, dict[int, float]]:
    """The measure, or its logarithm, by function and seed."""
    values: dict[str, dict[int, float]] = {function: {} for function in comparison.functions}
    for row in read_table(folder / f"{comparison.problem}.csv"):
        if comparison.confirms(row["plan"], row["revision"], int(row["seed"])):
            value = float(row[comparison.measure])
            values[row["function"]][int(row["seed"])] = math.log(value) if comparison.scale == "log" else value
    return values


def judged(comparison: Comparison, control: str, values: Mapping[str, Mapping[int, float]]) -> Finding:
    ours, others = values[comparison.ours], values[control]
    there = len(ours.keys() & others.keys())
    if there < len(comparison.seeds):
        return Finding(comparison, control, None, there)
    gain = paired(ours, others) if comparison.better == "higher" else paired(others, ours)
    assert gain is not None
    return Finding(comparison, control, gain, there, gain.p_sign_flip if comparison.scale == "log" else gain.p)


def with_holm(of: Finding, first: Mapping[str, float], count: int) -> Finding:
    if of.p is None or not of.comparison.primary:
        return of
    p_holm = first[of.comparison.id]
    if of.against != of.comparison.controls[0]:
        if p_holm >= LEVEL:
            return of
        p_holm = max(p_holm, min(1.0, count * of.p))
    return Finding(of.comparison, of.against, of.difference, of.there, of.p, p_holm)


def findings_table(plan: Path, folder: Path) -> Iterator[Output]:
    """The table; none where there is no plan."""
    if not plan.is_file():
        return
    found = findings(read_plan(plan), folder)
    sources = [plan, *sorted(folder.glob("*.csv"))]
    rows = [row(of) for of in found]
    yield table("findings", TEXT, COLUMNS, rows, sources=sources, csv_only=CSV_ONLY)


def row(of: Finding) -> Row:
    planned, gain = of.comparison, of.difference
    statistic = f"ln {planned.measure}" if planned.scale == "log" else planned.measure
    interval = gain.interval if gain else None
    return {
        "comparison": planned.id,
        "claim": planned.claim,
        "setting": planned.tag,
        "primary": "yes" if planned.primary else "no",
        "against": of.against,
        "statistic": statistic,
        "n": f"{of.there} of {len(planned.seeds)}",
        "effect": f"{number(gain.mean)} [{span(interval)}]" if gain and interval else "",
        "low": number(interval[0]) if interval else "",
        "high": number(interval[1]) if interval else "",
        "margin": number(planned.margin),
        "p": p_text(of.p),
        "p_sign_flip": p_text(gain.p_sign_flip if gain else None),
        "p_holm": p_text(of.p_holm),
        "verdict": of.verdict,
        "plan": planned.digest,
    }


def p_text(p: float | None) -> str:
    return "" if p is None else f"{p:.2g}"
