"""The findings as pictures: all of them together in units of their margins, and each by itself."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import shorten

from multimax.suite.figures.forest import Line, forest
from multimax.suite.figures.style import style_of
from multimax.suite.plan import read_plan
from multimax.suite.report.findings import Finding, Rows, confirming, findings, sources, values_of
from multimax.suite.report.outputs import Output, picture
from multimax.suite.report.statistics import Difference, gain

CLAIM = 100  # characters of a claim above its lines
LINEAR = 2.0  # margins on either side of zero; beyond them, the axis of all findings is logarithmic


def findings_figures(plan: Path, folder: Path) -> Iterator[Output]:
    """``findings``, and ``finding_COMPARISON`` for each comparison with a verdict; nothing without a plan."""
    if not plan.is_file():
        return
    entries, used = read_plan(plan), sources(plan, folder)
    found = [of for of in findings(entries, folder) if of.measured]
    if not found:
        return
    planned = sum(len(of.controls) for entry in entries.values() for of in entry.comparisons)
    runs = {name: confirming(entry, folder) for name, entry in entries.items()}
    yield all_findings(found, planned, used)
    for _, tests in groupby(found, key=lambda of: of.comparison.id):
        yield one_finding(list(tests), runs, used)


def all_findings(found: Sequence[Finding], planned: int, used: Sequence[Path]) -> Output:
    """A line for each comparison, control and measure: the effect in units of the margin."""
    groups: dict[str, list[Line]] = {}
    for of in found:
        for i, each in enumerate(of.measured):
            # The verdict is on all of the claim's measures, and is shown with the first.
            label = style_of(of.against).label + (f": {brief(of.verdict)}" if i == 0 else "")
            several = f" ({each.measure})" if len(of.measured) > 1 else ""
            drawn = line(label, of.against, each.gain, not of.comparison.primary, each.margin)
            groups.setdefault(shorten(of.comparison.claim, CLAIM, placeholder="…") + several, []).append(drawn)
    title = f"MultiMax's gains in margins: {len(found)} of {planned} tests have run"
    drawing, rows = forest(groups, title, "effect / margin, with each seed's;\nlogarithmic beyond 2; hollow: secondary")
    (axes,) = drawing.axes
    axes.set_xscale("symlog", linthresh=LINEAR)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvspan(-1, 1, color="0.94", zorder=-1)
    return picture("findings", drawing, rows, sources=used)


def brief(verdict: str) -> str:
    return (
        verdict.partition(":")[0].replace(" above the margin", " > margin").replace(", below the margin", " < margin")
    )


def one_finding(tests: Sequence[Finding], runs: Mapping[str, Rows], used: Sequence[Path]) -> Output:
    """``ours`` against every arm that has run, in each measure; the band is the margin. ``tests`` share one claim."""
    of, groups = tests[0], dict[str, list[Line]]()
    for each in of.measured:
        values = values_of(of.entry, of.comparison, each.measure, runs[of.entry.id])
        ours = values.pop(of.comparison.ours)
        groups[each.measure] = [
            line(style_of(arm).label, arm, found, not of.comparison.primary)
            for arm, others in values.items()
            if (found := gain(of.comparison.better, ours, others))
        ]
    unit = "ln " if of.comparison.scale == "log" else ""
    axis = f"what MultiMax gains in {unit}{' and '.join(groups)}; better to the right"
    drawing, rows = forest(groups, f"{of.comparison.claim}: {each_verdict(tests)}", axis)
    margin = min(of.comparison.margins.values())
    drawing.axes[0].axvspan(-margin, margin, color="0.94", zorder=-1)
    return picture(f"finding_{of.comparison.id}", drawing, rows, sources=used)


def each_verdict(tests: Sequence[Finding]) -> str:
    """Each verdict once, with the functions it is against."""
    against: dict[str, list[str]] = {}
    for of in tests:
        against.setdefault(of.verdict.partition(":")[0], []).append(style_of(of.against).label)
    return "; ".join(f"{verdict} ({', '.join(functions)})" for verdict, functions in against.items())


def line(label: str, arm: str, found: Difference, secondary: bool, unit: float = 1.0) -> Line:
    assert found.interval is not None
    low, high = found.interval
    pairs = [pair / unit for pair in found.pairs]
    return Line(label, arm, pairs, found.mean / unit, (low / unit, high / unit), secondary)
