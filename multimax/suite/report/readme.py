"""The README's table of findings: the primary comparisons, each against both of its controls."""

import csv
from pathlib import Path

BEGIN, END = "<!-- findings: written by python -m multimax.suite.report -->", "<!-- end of findings -->"
HEAD = (
    "| with MultiMax | setting | seeds | gain over softmax, in margins | verdict | against a learned temperature |",
    "|---|---|---|---|---|---|",
)


def findings_lines(findings: Path) -> list[str]:
    """The lines of the table, from ``tables/findings.csv``."""
    with findings.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["primary"] == "yes"]
    against = {control: [row for row in rows if row["against"] == control] for control in ("softmax", "temperature")}
    lines = list(HEAD)
    for row, other in zip(*against.values(), strict=True):
        assert (row["comparison"], row["statistic"]) == (other["comparison"], other["statistic"])
        effect = row["effect / margin"] or "–"
        second = ", ".join(filter(None, (other["verdict"], other["effect / margin"])))
        measured = f"{row['claim']}: {row['statistic']}"
        lines.append(f"| {measured} | {row['setting']} | {row['n']} | {effect} | **{row['verdict']}** | {second} |")
    return lines


def with_findings(readme: str, findings: Path) -> str:
    """The text with its table replaced; a text without the marks around a table is returned as it is."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        return readme
    return "\n".join([before + begin, *findings_lines(findings), end + after])


def update_readme(results: Path) -> None:
    """Update the README of the repository that holds ``results``, if it has one."""
    path, findings = results.resolve().parent / "README.md", results / "tables" / "findings.csv"
    if path.is_file() and findings.is_file():
        text = path.read_text(encoding="utf-8")
        if (made := with_findings(text, findings)) != text:
            path.write_text(made, encoding="utf-8")
            print(path)
