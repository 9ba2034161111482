"""The dashboard that scripts/wandb_dashboard.py makes on W&B, drawn from recorded runs."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.figure import Figure

from multimax.suite.figures.dashboard import Curve, bands, dashboard_figure
from multimax.suite.figures.style import STYLES
from multimax.suite.loggers.dashboard import METRICS, curves
from multimax.suite.report.outputs import Output, picture
from multimax.suite.report.tables import experiments
from multimax.suite.runs import Run
from multimax.suite.text_tables import Row

FUNCTIONS = 3  # in attention, that an experiment must compare to be drawn


def dashboard_figures(records: Sequence[Run]) -> Iterator[Output]:
    """``dashboard_EXPERIMENT`` for each experiment that compares several functions and measured their attention."""
    for name, group in sorted(experiments(records).items()):
        if group[0].config["task"] not in METRICS or len({attention(record) for record in group}) < FUNCTIONS:
            continue
        logs = {record: {step: values for step, values, _ in record.rows()} for record in group}
        if all("sparsity/mean" in {key for values in log.values() for key in values} for log in logs.values()):
            yield picture(f"dashboard_{name}", *drawn(name, logs), group)


def attention(record: Run) -> str:
    return record.config["reweight"]["attention"]["name"]


def drawn(name: str, logs: Mapping[Run, Mapping[int, Mapping[str, float]]]) -> tuple[Figure, list[Row]]:
    by_function: dict[str, list[Run]] = defaultdict(list)
    for record in sorted(logs, key=lambda r: ([*STYLES, attention(r)].index(attention(r)), r.function)):
        by_function[record.function].append(record)
    task = next(iter(logs)).config["task"]

    def of(pattern: str) -> list[Curve]:
        found = []
        for function, runs in by_function.items():
            keys = {key for run in runs for values in logs[run].values() for key in values if re.search(pattern, key)}
            for key in sorted(keys):
                seeds = [{step: values[key] for step, values in logs[run].items() if key in values} for run in runs]
                found.append(Curve(function, attention(runs[0]), key, bands(seeds)))
        return found

    sections = {
        section: {title: of(pattern) for title, pattern in panels.items()} for section, panels in curves(task).items()
    }
    final = []
    for function, runs in by_function.items():
        scores = [{run.summary["steps"]: run.final[run.summary["metric"]]} for run in runs]
        final.append(Curve(function, attention(runs[0]), "final/score", bands(scores)))
    seeds = {run.config["seed"] for run in logs}
    title = f"{name}: {len(logs)} runs of {len(by_function)} functions, up to {len(seeds)} seeds each"
    return dashboard_figure(title, sections, (f"{next(iter(METRICS[task]))}, last step", final))
