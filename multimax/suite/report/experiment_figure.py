"""A picture of each experiment: every run a dot, every function a row with its mean and the interval of that."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from multimax.suite.figures.style import figure, style_of
from multimax.suite.report.metrics import HEADLINE, Headline
from multimax.suite.report.outputs import Output, Row, picture
from multimax.suite.report.statistics import mean_over_seeds
from multimax.suite.report.tables import experiments
from multimax.suite.runs import Run


def experiment_figures(records: Sequence[Run]) -> Iterator[Output]:
    """One figure for each experiment. Raises UserError as ``experiments`` does."""
    for experiment, group in experiments(records).items():
        headline = HEADLINE[group[0].config["task"]]
        metric = headline.metric or group[0].summary["metric"]
        drawing, rows = dots(group, metric, headline)
        yield picture(experiment, drawing, rows, group)


def dots(records: Sequence[Run], metric: str, headline: Headline) -> tuple[Figure, list[Row]]:
    """The figure, best mean on top, and a row for each run."""
    groups = defaultdict(list)
    for record in sorted(records, key=lambda record: record.config["seed"]):
        groups[record.function].append(record)
    means = {
        function: mean_over_seeds(record.summary["metrics"][metric] for record in group)
        for function, group in groups.items()
    }
    sign = 1 if headline.higher_is_better else -1
    order = sorted(groups, key=lambda function: sign * means[function].mean)
    rows: list[Row] = []
    with figure(6.5, 1.0 + 0.36 * len(order)) as drawing:
        axes = drawing.subplots()
        for height, function in enumerate(order):
            of = means[function]
            style = style_of(groups[function][0].config["reweight"]["attention"]["name"])
            if of.interval is not None:
                axes.plot(of.interval, [height, height], color=style.color, linewidth=5, alpha=0.25)
                axes.plot([of.mean] * 2, [height - 0.3, height + 0.3], color=style.color, linewidth=2)
            for record in groups[function]:
                value = record.summary["metrics"][metric]
                axes.plot(value, height, style.marker, color=style.color, markersize=style.size, alpha=0.8)
                rows.append({"function": function, "seed": str(record.config["seed"]), "value": f"{value:.4f}"})
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(-0.7, len(order) - 0.3)
        axes.tick_params("y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{headline.title} ({metric}); bars: 95% interval of the mean")
        axes.set_title(records[0].experiment)
    return drawing, rows
