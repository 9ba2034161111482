"""A picture of over-smoothing for each experiment whose runs were measured."""

from collections.abc import Iterator, Sequence

from multimax.suite.analysis.oversmoothing_figure import Smoothing, oversmoothing_figure
from multimax.suite.report.analysis_figures import kept, sources
from multimax.suite.report.outputs import Output
from multimax.suite.report.pictures import picture
from multimax.suite.report.records import Record


def oversmoothing_figures(records: Sequence[Record]) -> Iterator[Output]:
    """A figure for each experiment, of what ``multimax.suite.analysis oversmoothing`` kept of its runs."""
    for experiment, (group, found) in kept(records, "oversmoothing").items():
        runs = []
        for record, one in zip(group, found, strict=True):
            function = record.config["reweight"]["attention"]["name"]
            runs.append(Smoothing(record.function, function, record.config["seed"], one["measured"]))
        drawing, rows = oversmoothing_figure(runs, experiment)
        yield picture(f"oversmoothing_{experiment}", drawing, rows, group, sources(group, "oversmoothing"))
