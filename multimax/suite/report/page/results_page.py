"""``results/index.html``: the recorded runs with the tables and figures made from them."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from multimax.suite.report.findings import sources
from multimax.suite.report.outputs import Output
from multimax.suite.report.page.data import page_data, read_run
from multimax.suite.report.page.findings_data import findings_data
from multimax.suite.report.page.html import page
from multimax.suite.runs import read_runs

PICTURES = (".png", ".svg")
MADE_BY = (
    "Made by python -m multimax.suite.report from results/plan.yaml, results/planned, results/runs and results/tables; "
    "index.json names the runs, the other files and the revision."
)


def results_page(results: Path) -> Iterator[Output]:
    """The page, made after the tables and figures; it links to the figures next to it."""
    records = read_runs(results / "runs")
    experiments = {record.experiment for record in records}
    paths = [path for path in sorted((results / "tables").glob("*.csv")) if path.stem not in experiments]
    runs = []
    for record in records:
        place = f"runs/{record.path.name}/"
        runs.append(replace(read_run(record), pictures=pictures_in(record.path, place), folder=place))
    plan, planned = results / "plan.yaml", results / "planned"
    data = page_data(
        runs,
        "Recorded runs",
        MADE_BY,
        [table(path) for path in paths],
        figures(results / "figures"),
        findings=findings_data(plan, planned),
    )
    yield Output("index", {".html": page(data)}, records, [*paths, *(sources(plan, planned) if plan.is_file() else ())])


def table(path: Path) -> dict[str, Any]:
    """A table with the title and text of the Markdown next to it."""
    with path.open(newline="") as file:
        columns, *rows = csv.reader(file)
    title, text = path.stem, ""
    markdown = path.with_suffix(".md")
    if markdown.is_file():
        first, _, rest = markdown.read_text().partition("\n")
        title, text = first.removeprefix("# "), " ".join(rest.partition("\n|")[0].split())
    return {"name": path.stem, "title": title, "text": text, "columns": columns, "rows": rows}


def figures(folder: Path) -> list[dict[str, Any]]:
    """Each figure once, with the kinds of file it has."""
    kinds: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.*")):
        kinds.setdefault(path.stem, []).append(path.suffix)
    return [
        {"name": name, "path": f"{folder.name}/{name}", "files": found}
        for name, found in kinds.items()
        if set(found) & set(PICTURES)
    ]


def pictures_in(run: Path, prefix: str) -> list[tuple[str, str]]:
    """Kind and URL of each picture of a run: those of its analysis, SVG before PNG, and its newest sample."""
    analysis = [path for path in sorted(run.glob("analysis/*")) if path.suffix in PICTURES]
    found = {path.relative_to(run).with_suffix("").as_posix(): path for path in analysis}
    if samples := sorted(run.glob("samples/step-*/attention.png")):
        found["samples/attention"] = samples[-1]
    return [(kind, prefix + quote(path.relative_to(run).as_posix())) for kind, path in found.items()]
