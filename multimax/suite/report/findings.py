"""Findings: a verdict on each of the plan's comparisons, from the runs that the plan asked for and no others."""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy

from multimax.suite.errors import UserError
from multimax.suite.plan import Comparison, Entry, read_plan
from multimax.suite.planned.table import measured, read_table, unpacked
from multimax.suite.report.claims import CONTRADICTED, NO_GAIN, SUPPORTED
from multimax.suite.report.outputs import Output, Row, number, span, table
from multimax.suite.report.settings import setting
from multimax.suite.report.statistics import LEVEL, Difference, detectable, gain, holm

COLUMNS = (
    "comparison", "claim", "setting", "tag", "primary", "against", "statistic", "n", "effect", "low", "high", "margin",
    "effect / margin", "evaluation set", "detectable", "p", "p_sign_flip", "p_holm", "verdict", "plan",
)  # fmt: skip
CSV_ONLY = ("low", "high", "p", "p_sign_flip", "plan")
TEXT = """# Findings

Made by `python -m multimax.suite.report` from `results/plan.yaml` and the runs that it asks for, which are in
`results/planned`: those with the digest of the plan's entry, its revision of the code and its seeds. How to read it,
and how to check it: [docs/method.md](../../docs/method.md).

*Setting* is what was trained, and *tag* how that stands to the paper. *Effect* is the mean over seeds of what MultiMax
gains on the other function, above zero where MultiMax is the better one, with the 95% interval (Student's t); of `ln
error` it is the gain in the natural logarithm. *Margin* is the smallest effect of interest. *Evaluation set* is the 95%
half-width of the effect that other images, sentences or text of the same kind would bring, with the seeds as they are.
*Detectable* is the effect that so many seeds find in four cases of five, at the level that the number of primary
comparisons leaves. *p_holm* is adjusted for the primary comparisons; it is empty for what is secondary or was not
tested.

"""
LOSS = "a loss: not tested"
Rows = Mapping[tuple[str, int], Mapping[str, str]]  # of a table of runs, by arm and seed
Values = dict[str, dict[int, float]]  # by arm and seed


@dataclass(frozen=True)
class Measured:
    """The gain of ``ours`` in one measure; ``examples_error`` is the standard error from the choice of examples."""

    measure: str
    margin: float
    gain: Difference
    examples_error: float | None

    @property
    def interval(self) -> tuple[float, float]:
        assert self.gain.interval is not None
        return self.gain.interval


@dataclass(frozen=True)
class Finding:
    """``ours`` against one of the controls. ``measured`` is empty, and ``p`` None, until all seeds are there.

    ``p_holm`` is None for secondary comparisons, and for the second control if the claim fails against the first.
    ``level`` is LEVEL divided by the number of primary comparisons.
    """

    entry: Entry
    comparison: Comparison
    against: str
    measured: tuple[Measured, ...]
    there: int  # seeds
    level: float
    p: float | None = None
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        planned = len(self.entry.seeds)
        if not self.measured:
            return f"not run: {self.there} of {planned} seeds" if self.there else "not run"
        decisive = self.p_holm if self.comparison.primary else self.p
        below = any(of.interval[1] < of.margin for of in self.measured)
        if decisive is not None and decisive < LEVEL:
            gains = all(of.gain.mean > 0 for of in self.measured)
            return (SUPPORTED + ", below the margin" * below) if gains else CONTRADICTED
        if below:
            lost = decisive is None and any(of.interval[1] < 0 for of in self.measured)
            return NO_GAIN + f", {LOSS}" * lost
        if decisive is None:
            return "not tested"
        seen = ", ".join(amount(self.detectable(of), of.margin) for of in self.measured)
        return f"inconclusive: {seen} would be seen"

    def detectable(self, of: Measured) -> float:
        assert of.gain.deviation is not None
        return detectable(of.gain.deviation, of.gain.n, self.level)


def findings(plan: Mapping[str, Entry], folder: Path) -> list[Finding]:
    """Each comparison against each of its controls; ``folder`` holds the tables of runs, ENTRY.csv."""
    tests = [(entry, of) for entry in plan.values() for of in entry.comparisons]
    count = sum(of.primary for _, of in tests)
    rows = {name: confirming(entry, folder) for name, entry in plan.items()}
    found = [
        judged(entry, of, control, rows[entry.id], LEVEL / count if of.primary else LEVEL)
        for entry, of in tests
        for control in of.controls
    ]
    first = [of for of in found if of.comparison.primary and of.against == of.comparison.controls[0]]
    # A comparison that has not run counts as a test with p = 1, which can only make the others stricter.
    adjusted = holm([1.0 if of.p is None else of.p for of in first])
    decided = {of.comparison.id: replace(of, p_holm=p) for of, p in zip(first, adjusted, strict=True) if of.measured}
    return [with_holm(of, decided, count) for of in found]


def confirming(entry: Entry, folder: Path) -> Rows:
    """The plan's runs of an entry. Raises UserError for duplicate runs, and for runs on different data."""
    path, runs = folder / f"{entry.id}.csv", dict[tuple[str, int], Mapping[str, str]]()
    lines, data = dict[tuple[str, int], int](), dict[str, list[int]]()
    for line, row in enumerate(read_table(path), start=2):
        key = row["arm"], int(row["seed"])
        planned_rate = f"{entry.rates.get(row['arm'], math.nan):g}" == row["rate"]
        if not planned_rate or not entry.confirms(row["plan"], row["revision"], key[1]):
            continue
        if key in runs:
            raise UserError(f"lines {lines[key]} and {line} of {path} are both {key[0]}, seed {key[1]}: remove one")
        runs[key], lines[key] = row, line
        data.setdefault(row.get("data", ""), []).append(line)
    if len(data) > 1:
        fewest = min(data.values(), key=len)
        named = ", ".join(map(str, fewest))
        raise UserError(f"{path}: line {named}: other data than those of the other runs; remove and run again")
    return runs


def complete(entry: Entry, rows: Rows) -> list[str]:
    """The arms with all of their seeds."""
    return [arm for arm in entry.rates if all((arm, seed) in rows for seed in entry.seeds)]


def shown(entry: Entry, rows: Rows) -> list[str]:
    """The arms whose runs may be looked at: the complete ones, once all that decide the entry are complete."""
    arms = complete(entry, rows)
    return arms if {*entry.decisive} <= {*arms} else []


def values_of(entry: Entry, comparison: Comparison, measure: str, rows: Rows) -> Values:
    """The statistic of each run of the complete arms. Raises UserError if a run has none."""
    return {
        arm: {seed: statistic(entry, comparison, measure, rows[arm, seed]) for seed in entry.seeds}
        for arm in complete(entry, rows)
    }


def statistic(entry: Entry, comparison: Comparison, measure: str, row: Mapping[str, str]) -> float:
    value = measured(row, measure, entry.id)
    if comparison.scale == "plain":
        return value
    if value <= 0:
        raise UserError(
            f"{entry.id}.csv: {row['arm']}, seed {row['seed']}: {measure} is {value:g}: it has no logarithm"
        )
    return math.log(value)


def judged(entry: Entry, comparison: Comparison, control: str, rows: Rows, level: float) -> Finding:
    there = sum({(comparison.ours, seed), (control, seed)} <= rows.keys() for seed in entry.seeds)
    if there < len(entry.seeds):
        return Finding(entry, comparison, control, (), there, level)
    found, p = [], []
    for measure, margin in comparison.margins.items():
        values = values_of(entry, comparison, measure, rows)
        of = gain(comparison.better, values[comparison.ours], values[control])
        assert of is not None
        assert of.p is not None
        assert of.p_sign_flip is not None
        found.append(Measured(measure, margin, of, examples_error(entry, (comparison.ours, control), measure, rows)))
        p.append((of.mean > 0, of.p_sign_flip if comparison.scale == "log" else of.p))
    return Finding(entry, comparison, control, tuple(found), there, level, joint(p))


def joint(tests: list[tuple[bool, float]]) -> float:
    """The p-value of the claim that all measures gain: of the weakest gain, or of the clearest loss if any lose."""
    lost = [p for gains, p in tests if not gains]
    return min(1.0, len(tests) * min(lost)) if lost else max(p for _, p in tests)


def examples_error(entry: Entry, arms: Sequence[str], measure: str, rows: Rows) -> float | None:
    """Standard error of two arms' difference over the evaluation set's examples, each averaged over seeds.

    None where the runs have kept no values of single examples. Raises UserError where a run's are damaged, or not as
    many as another's.
    """
    column = f"examples:{measure}"
    if not all(rows[arm, seed].get(column) for arm in arms for seed in entry.seeds):
        return None

    def values(arm: str, seed: int) -> numpy.ndarray:
        try:
            return unpacked(rows[arm, seed][column])
        except (ValueError, zlib.error):
            raise UserError(f"{entry.id}.csv: {arm}, seed {seed}: {column} is damaged: restore the line") from None

    ours, others = ([values(arm, seed) for seed in entry.seeds] for arm in arms)
    if len(lengths := {len(each) for each in (*ours, *others)}) > 1:
        raise UserError(
            f"{entry.id}.csv: {column} has {' or '.join(map(str, sorted(lengths)))} values: restore the lines"
        )
    differences = numpy.mean(ours, 0) - numpy.mean(others, 0)
    return float(numpy.std(differences, ddof=1) / math.sqrt(len(differences)))


def with_holm(of: Finding, decided: Mapping[str, Finding], count: int) -> Finding:
    if of.p is None or not of.comparison.primary:
        return of
    first = decided.get(of.comparison.id)
    if of.against == of.comparison.controls[0]:
        return first or of
    if first is None or not first.verdict.startswith(SUPPORTED):
        return of
    assert first.p_holm is not None
    return replace(of, p_holm=max(first.p_holm, min(1.0, count * of.p)))


def findings_table(plan: Path, folder: Path) -> Iterator[Output]:
    """The table, if there is a plan."""
    if not plan.is_file():
        return
    found = findings(read_plan(plan), folder)
    rows = [row for of in found for row in table_rows(of)]
    yield table("findings", TEXT, COLUMNS, rows, sources=sources(plan, folder), csv_only=CSV_ONLY)


def sources(plan: Path, folder: Path) -> list[Path]:
    return [plan, *sorted(folder.glob("*.csv"))]


def table_rows(of: Finding) -> Iterator[Row]:
    """A row for each measure."""
    found = {each.measure: each for each in of.measured}
    for measure, margin in of.comparison.margins.items():
        row = {
            "comparison": of.comparison.id,
            "claim": of.comparison.claim,
            "setting": setting(of.entry),
            "tag": of.entry.tag,
            "primary": "yes" if of.comparison.primary else "no",
            "against": of.against,
            "statistic": f"ln {measure}" if of.comparison.scale == "log" else measure,
            "n": f"{of.there} of {len(of.entry.seeds)}",
            "margin": amount(margin, margin),
            "p": p_text(of.p),
            "p_holm": p_text(of.p_holm),
            "verdict": of.verdict,
            "plan": of.entry.digest,
        }
        yield row | dict(numbers(of, found[measure]) if found else {})


def numbers(of: Finding, each: Measured) -> Row:
    mean, (low, high), margin = each.gain.mean, each.interval, each.margin
    wide = 1.96 * each.examples_error if each.examples_error is not None else None
    return {
        "effect": f"{amount(mean, margin)} [{amount(low, margin)} to {amount(high, margin)}]",
        "low": amount(low, margin),
        "high": amount(high, margin),
        "effect / margin": f"{number(mean / margin, digits=1)} [{span((low / margin, high / margin), digits=1)}]",
        "evaluation set": "" if wide is None else f"± {amount(wide, margin)}",
        "detectable": amount(of.detectable(each), margin),
        "p_sign_flip": p_text(each.gain.p_sign_flip),
    }


def amount(value: float, margin: float) -> str:
    """``value`` rounded to a hundredth of the margin, with at least two digits."""
    return number(value, digits=max(2, 1 - math.floor(math.log10(margin)) + 1))


def p_text(p: float | None) -> str:
    return "" if p is None else f"{p:.2g}"
