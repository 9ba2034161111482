"""A picture of over-smoothing for each experiment whose runs were measured."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from multimax.analysis.oversmoothing_figure import Smoothing, oversmoothing_figure
from multimax.report.outputs import Output
from multimax.report.pictures import picture
from multimax.report.records import Record


def oversmoothing_figures(records: Sequence[Record]) -> Iterator[Output]:
    """One figure for each experiment, from what ``python -m multimax.analysis oversmoothing`` kept of its runs."""
    experiments = defaultdict(list)
    for record in records:
        if found := record.analysis("oversmoothing"):
            experiments[record.experiment].append((record, found["measured"]))
    for experiment, group in experiments.items():
        runs = [
            Smoothing(record.function, record.config["reweight"]["attention"]["name"], record.config["seed"], measured)
            for record, measured in group
        ]
        drawing, rows = oversmoothing_figure(sorted(runs, key=lambda run: (run.label, run.seed)), experiment)
        yield picture(f"oversmoothing_{experiment}", drawing, rows, [record for record, _ in group])
