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

    Raises UserError if an experiment's maps are of different images or texts.
    """
    for kind in MAPS:
        for experiment, of, group, files in kept(records, kind):
            first, *others = of.values()
            if any(one["input"] != first["input"] for one in others):
                raise UserError(
                    f"results/runs: {kind}.json of {experiment} are of different images or texts: "
                    f"make them again with one python -m multimax.suite.figures {kind} RUN..."
                )
            yield picture(f"{kind}_{experiment}", *draw_maps(of), group, files)
    for experiment, of, group, files in kept(records, "statistics"):
        for kind, draw in statistics_figures.KINDS.items():
            if made := draw(of):
                yield picture(f"{kind}_{experiment}", *made, group, files)


def oversmoothing_figures(records: Sequence[Run]) -> Iterator[Output]:
    """A figure for each experiment, from what ``python -m multimax.suite.figures oversmoothing`` kept of its runs."""
    for experiment, of, group, files in kept(records, "oversmoothing"):
        runs = []
        for record, one in zip(group, of.values(), strict=True):
            function = record.config["reweight"]["attention"]["name"]
            runs.append(Smoothing(record.function, function, record.config["seed"], one["measured"]))
        drawing, rows = oversmoothing_figure(runs, smoothing_title(experiment, runs))
        yield picture(f"oversmoothing_{experiment}", drawing, rows, group, files)


def smoothing_title(experiment: str, runs: Sequence[Smoothing]) -> str:
    """What the picture shows about the last layer: MAD compared with softmax's, paired by seed."""
    last: dict[str, dict[int, float]] = defaultdict(dict)
    for run in runs:
        last[run.label][run.seed] = run.measured[-1]["mad"][-1]
    found = [
        f"{label} {number(of.mean, '+', 3)} [{span(of.interval, '+', 3)}]"
        for label, values in last.items()
        if label != BASELINE and (of := paired(values, last.get(BASELINE, {}))) and of.interval
    ]
    return f"{experiment}, exploratory" + (
        f"\nMAD of the last layer, minus softmax's: {'; '.join(found)}" if found else ""
    )


def kept(records: Sequence[Run], kind: str) -> Iterator[tuple[str, dict[str, Any], list[Run], list[Path]]]:
    """By experiment: KIND.json by run label, in the order of the styles; its records; and the files."""

    def order(record: Run) -> tuple[int, str, int]:
        name = record.config["reweight"]["attention"]["name"]
        return [*STYLES, name].index(name), record.function, record.config["seed"]

    found: dict[str, dict[Run, dict[str, Any]]] = defaultdict(dict)
    for record in sorted(records, key=order):
        if content := record.analysis(kind):
            found[record.experiment][record] = content
    for experiment, of in found.items():
        files = [record.path / "analysis" / f"{kind}.json" for record in of]
        yield experiment, dict(zip(labels([r.config for r in of]), of.values(), strict=True)), list(of), files
