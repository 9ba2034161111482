"""Figures from the analyses in the records (``python -m multimax.suite.figures``), one set per experiment."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from multimax.suite.errors import UserError
from multimax.suite.figures import statistics_figures
from multimax.suite.figures.commands import labels
from multimax.suite.figures.oversmoothing_figure import Smoothing, oversmoothing_figure
from multimax.suite.figures.panels import draw_maps
from multimax.suite.figures.style import STYLES
from multimax.suite.report.metrics import BASELINE
from multimax.suite.report.outputs import Output, number, picture, span
from multimax.suite.report.statistics import paired
from multimax.suite.runs import MAPS, Run


def measured_figures(records: Sequence[Run]) -> Iterator[Output]:
    """``KIND_EXPERIMENT`` for each kind of map, and the statistics of attention, found in an experiment's records.

    Raises UserError for maps of one experiment that are of different images or texts.
    """
    for kind in MAPS:
        for experiment, (group, found) in kept(records, kind).items():
            if any(one["input"] != found[0]["input"] for one in found):
                raise UserError(
                    f"results/runs: {kind}.json of {experiment} are of different images or texts: "
                    f"make them again with one python -m multimax.suite.figures {kind} RUN..."
                )
            of = dict(zip(labels([record.config for record in group]), found, strict=True))
            yield picture(f"{kind}_{experiment}", *draw_maps(of), group, sources(group, kind))
    for experiment, (group, found) in kept(records, "statistics").items():
        of = dict(zip(labels([record.config for record in group]), found, strict=True))
        for kind, draw in statistics_figures.KINDS.items():
            if made := draw(of):
                yield picture(f"{kind}_{experiment}", *made, group, sources(group, "statistics"))


def oversmoothing_figures(records: Sequence[Run]) -> Iterator[Output]:
    """A figure for each experiment, of what ``python -m multimax.suite.figures oversmoothing`` kept of its runs."""
    for experiment, (group, found) in kept(records, "oversmoothing").items():
        runs = []
        for record, one in zip(group, found, strict=True):
            function = record.config["reweight"]["attention"]["name"]
            runs.append(Smoothing(record.function, function, record.config["seed"], one["measured"]))
        drawing, rows = oversmoothing_figure(runs, smoothing_title(experiment, runs))
        yield picture(f"oversmoothing_{experiment}", drawing, rows, group, sources(group, "oversmoothing"))


def smoothing_title(experiment: str, runs: Sequence[Smoothing]) -> str:
    """What the picture shows of the last layer: MAD beside softmax's, paired by seed."""
    last = {label: {run.seed: run.measured[-1]["mad"][-1] for run in runs if run.label == label} for label in
            dict.fromkeys(run.label for run in runs)}  # fmt: skip
    found = [
        f"{label} {number(of.mean, '+', 3)} [{span(of.interval, '+', 3)}]"
        for label, values in last.items()
        if label != BASELINE and (of := paired(values, last.get(BASELINE, {}))) and of.interval
    ]
    return f"{experiment}, exploratory" + (
        f"\nMAD of the last layer, minus softmax's: {'; '.join(found)}" if found else ""
    )


def kept(records: Sequence[Run], kind: str) -> dict[str, tuple[list[Run], list[dict[str, Any]]]]:
    """By experiment, the records that have KIND.json, ordered as the styles are, and its content."""

    def order(record: Run) -> tuple[int, str, int]:
        name = record.config["reweight"]["attention"]["name"]
        return [*STYLES, name].index(name), record.function, record.config["seed"]

    result: dict[str, tuple[list[Run], list[dict[str, Any]]]] = defaultdict(lambda: ([], []))
    for record in sorted(records, key=order):
        if found := record.analysis(kind):
            result[record.experiment][0].append(record)
            result[record.experiment][1].append(found)
    return result


def sources(group: Sequence[Run], kind: str) -> list[Path]:
    return [record.path / "analysis" / f"{kind}.json" for record in group]
