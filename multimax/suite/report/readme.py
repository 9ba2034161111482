"""The README's answer to "does it help?": sentences and a table of the primary comparisons, against both controls."""

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from multimax.suite.report.claims import CONTRADICTED, NOT_RUN, SUPPORTED
from multimax.suite.report.outputs import rewrite

BEGIN, END = "<!-- findings: written by python -m multimax.suite.report -->", "<!-- end of findings -->"
HEAD = (
    "| with MultiMax | on what | what is measured | seeds | gain over softmax, in margins | verdict "
    "| against a learned temperature |",
    "|---|---|---|---|---|---|---|",
)
PLACES = {
    "mechanism": "In small problems that each ask one thing of attention",
    "stand-in": "In small models of images and language",
    "paper setting": "In the paper's own settings",
}
"""Each tag as the beginning of a sentence."""
MEASURES = {
    "patch_similarity_last_third": "mean similarity of the patches",
    "test_sacrebleu": "BLEU",
    "loss": "logarithm of the perplexity",
    "gini": "Gini index",
    "multi_modality": "M, the multi-modality",
    "top1": "accuracy",
}
"""Words for measures whose names are not words themselves."""
PERCENT = ("accuracy", "top1")


def findings_lines(findings: Path) -> list[str]:
    """The sentences and the lines of the table, from ``tables/findings.csv``."""
    with findings.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["primary"] == "yes"]
    against = {control: [row for row in rows if row["against"] == control] for control in ("softmax", "temperature")}
    pairs = list(zip(*against.values(), strict=True))
    lines = [*answer(pairs), "", *HEAD]
    for comparison, group in groupby(pairs, key=lambda pair: pair[0]["comparison"]):
        ours, others = zip(*group, strict=True)  # a line per measure of the claim, all with one verdict
        assert all((of["comparison"], of["verdict"]) == (comparison, ours[0]["verdict"]) for of in ours)
        assert [of["statistic"] for of in ours] == [of["statistic"] for of in others]
        row, other = ours[0], others[0]
        measured = "<br>".join(in_words(of["statistic"], float(of["margin"])) for of in ours)
        gains = ["<br>".join(filter(None, (of["effect / margin"] for of in each))) for each in (ours, others)]
        effect, second = gains[0] or "–", ", ".join(filter(None, (gains[1], other["verdict"])))
        cells = row["claim"], f"{row['tag']}: {row['setting']}", measured, row["n"], effect, f"**{row['verdict']}**"
        lines.append(f"| {' | '.join((*cells, second))} |")
    return lines


def answer(pairs: Sequence[tuple[Mapping[str, str], Mapping[str, str]]]) -> list[str]:
    """A sentence for each kind of setting; ``pairs`` are rows against softmax and against the temperature."""
    once = {first["comparison"]: (first, second) for first, second in pairs}.values()
    lines = []
    for tag, place in PLACES.items():
        of = [(first["verdict"], second["verdict"]) for first, second in once if first["tag"] == tag]
        won = [second for first, second in of if first.startswith(SUPPORTED)]
        both = sum(second.startswith(SUPPORTED) for second in won)
        lost, missing = (sum(first.startswith(kind) for first, _ in of) for kind in (CONTRADICTED, NOT_RUN))
        others = {
            "lost": lost,
            "not finished": missing,
            "without a gain that could be told from none": len(of) - len(won) - lost - missing,
        }
        rest = "".join(f"; {count} {'is' if count == 1 else 'are'} {what}" for what, count in others.items() if count)
        if of:
            also = f", and {both} of these also against a learned temperature" if won else ""
            lines.append(f"{place}, MultiMax wins {len(won)} of {len(of)} comparisons with softmax{also}{rest}.")
    return lines


def in_words(statistic: str, margin: float) -> str:
    """The findings' column *statistic*, and the margin in units that a reader thinks in."""
    log = statistic.startswith("ln ")
    name, _, at = statistic.removeprefix("ln ").partition("@")
    words = MEASURES.get(name, name.replace("_", " ")) + (f" at {at} items" if at.isdecimal() else "")
    if log:
        return f"{words}; margin: {-math.expm1(-margin):.0%} of it"
    points = (" point" if margin == 1 else " points") if name in PERCENT else ""
    return f"{words}; margin: {margin:g}{points}"


def with_findings(readme: str, findings: Path) -> str:
    """``readme`` with its table replaced; a text without the marks around a table is returned unchanged."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        return readme
    return "\n".join([before + begin, *findings_lines(findings), end + after])


def update_readme(results: Path) -> None:
    findings = results / "tables" / "findings.csv"
    if findings.is_file():
        rewrite("README.md", results, lambda readme: with_findings(readme, findings))
