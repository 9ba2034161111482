"""The findings on the page: a row for each test and, behind it, the plan, each seed's runs and the command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multimax.suite.plan import Entry, read_plan
from multimax.suite.planned.table import measured
from multimax.suite.report.findings import Finding, Rows, confirming, findings, shown, table_rows
from multimax.suite.report.page.curves import short
from multimax.suite.report.settings import setting

SHOWN = ("against", "statistic", "n", "effect", "effect / margin", "margin", "evaluation set", "detectable",
         "p", "p_sign_flip", "p_holm", "verdict")  # fmt: skip
"""Columns of the table of findings that the page's rows have unchanged."""


def findings_data(plan: Path, folder: Path) -> dict[str, Any]:
    """Rows, and by name the comparisons and entries that they are of; ``folder`` has the tables of runs, ENTRY.csv.

    Primary comparisons come first. ``in_margins`` of a row is the effect with the ends of its interval, None where
    there is none; ``measured`` of an entry has the values of its runs by measure and arm, seed by seed.
    """
    if not plan.is_file():
        return {"rows": [], "comparisons": {}, "entries": {}}
    entries = read_plan(plan)
    found = sorted(findings(entries, folder), key=lambda of: not of.comparison.primary)
    return {
        "rows": [row for of in found for row in rows(of)],
        "comparisons": {of.comparison.id: comparison(of) for of in found},
        "entries": {name: entry_data(entry, folder) for name, entry in entries.items()},
    }


def rows(of: Finding) -> list[dict[str, Any]]:
    """One for each measure."""
    found = {each.measure: each for each in of.measured}
    result = []
    for measure, cells in zip(of.comparison.margins, table_rows(of), strict=True):
        row: dict[str, Any] = {"comparison": of.comparison.id, "measure": measure, "in_margins": None}
        if each := found.get(measure):
            row["in_margins"] = [short(value / each.margin) for value in (each.gain.mean, *each.interval)]
        result.append(row | {name: cells.get(name, "") for name in SHOWN})
    return result


def comparison(of: Finding) -> dict[str, Any]:
    names = ("claim", "question", "refuted_if", "primary", "ours", "better", "scale")
    return {name: getattr(of.comparison, name) for name in names} | {"entry": of.entry.id}


def entry_data(entry: Entry, folder: Path) -> dict[str, Any]:
    found = confirming(entry, folder)
    arms = shown(entry, found)
    measures = dict.fromkeys(measure for of in entry.comparisons for measure in of.margins)
    return {
        "tag": entry.tag,
        "setting": setting(entry),
        "seeds": [entry.first_seed, entry.last_seed],
        "plan": {
            "entry": entry.id,
            "digest": entry.digest,
            "revision": entry.revision or "none yet: the entry is not ready",
            "problem": " ".join(filter(None, (entry.problem, entry.variant))),
            "overrides": " ".join(entry.overrides),
            "rates": ", ".join(f"{arm} {rate:g}" for arm, rate in entry.rates.items()),
            "rates chosen with": " ".join(entry.tuning),
        }
        | {f"arm {arm}": " ".join(of) for arm, of in entry.arms.items()},
        "commands": commands(entry),
        "records": f"{folder.name}/{entry.id}.csv" if found else None,
        "measured": {measure: values(entry, measure, arms, found) for measure in measures} if arms else {},
    }


def commands(entry: Entry) -> list[str]:
    """The commands that make the runs, from this project's folder; none if the entry names no revision."""
    if not entry.revision:
        return []
    return [
        f"git worktree add ../confirm {entry.revision[:12]}",
        f"cd ../confirm && python -m multimax.suite.planned confirm {entry.id} "
        '--plan "$OLDPWD/results/plan.yaml" --to "$OLDPWD/results/planned"',
    ]


def values(entry: Entry, measure: str, arms: Sequence[str], found: Rows) -> dict[str, list[float | int]]:
    """By arm, the value of each seed."""
    return {arm: [short(measured(found[arm, seed], measure, entry.id)) for seed in entry.seeds] for arm in arms}
