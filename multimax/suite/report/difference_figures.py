"""One picture per task: how far every function of every experiment is from softmax, paired by seed."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from multimax.suite.figures.forest import Line, forest
from multimax.suite.report.outputs import Output, picture
from multimax.suite.report.statistics import LEVEL
from multimax.suite.report.tables import Comparison, adjusted_p, compare, experiments
from multimax.suite.runs import Run


def difference_figures(records: Sequence[Run]) -> Iterator[Output]:
    """``differences_TASK`` for each task with a function that shares seeds with softmax. Raises UserError."""
    compared = {name: compare(group) for name, group in sorted(experiments(records).items())}
    adjusted = adjusted_p(compared)
    by_task: dict[str, dict[str, Comparison]] = defaultdict(dict)
    for name, of in compared.items():
        if any(of.differences.values()):
            by_task[of.records[0].config["task"]][name] = of
    for task, chosen in by_task.items():
        groups = {f"{name}, {of.metric}": list(lines(of)) for name, of in chosen.items()}
        title = finding(groups, [p for (name, _), p in adjusted.items() if name in chosen])
        headline = next(iter(chosen.values())).headline
        axis = f"{headline.title}; better to the {'right' if headline.higher_is_better else 'left'}"
        used = [record for of in chosen.values() for record in of.records]
        yield picture(f"differences_{task}", *forest(groups, title, axis), used)


def lines(of: Comparison) -> Iterator[Line]:
    attention = {record.function: record.config["reweight"]["attention"]["name"] for record in of.records}
    for function, difference in of.differences.items():
        if difference is not None:
            yield Line(function, attention[function], difference.pairs, difference.mean, difference.interval)


def finding(groups: Mapping[str, Sequence[Line]], adjusted: Sequence[float]) -> str:
    """What the picture shows, as its title."""
    intervals = [line.interval for group in groups.values() for line in group if line.interval is not None]
    decided = sum(low > 0 or high < 0 for low, high in intervals)
    kept = sum(p <= LEVEL for p in adjusted)
    return f"Differences from softmax: {decided} of {len(intervals)} intervals without zero, {kept} after Holm"
