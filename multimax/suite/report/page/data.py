"""The page's data: runs with curves and facts, means over seeds, tables with verdicts, and pictures."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scipy import stats

from multimax.suite.config import flatten
from multimax.suite.figures.style import STYLES
from multimax.suite.report.metrics import BASELINE, headline, possible
from multimax.suite.report.page.curves import Curves, packed, read_curves, short
from multimax.suite.report.page.looks import look
from multimax.suite.report.settings import description
from multimax.suite.report.statistics import CONFIDENCE, mean_over_seeds, paired
from multimax.suite.runs import Run

SCORES = {"deit": ("top1",), "lm": ("ppl@", "smoothed_ppl@"), "mt": ("bleu",)}
"""Beginnings of the metric that a task's runs are scored by, which unfinished runs do not record."""


@dataclass(frozen=True)
class Shown:
    """A run on the page, as it was when read; ``pictures`` are pairs of kind and URL."""

    run: Run
    summary: Mapping[str, Any]  # empty for an unfinished run
    start: Mapping[str, Any]  # the newest; empty for a record
    curves: Curves
    status: str = "finished"  # finished | running | stopped
    seconds_per_step: float | None = None
    pictures: Sequence[tuple[str, str]] = ()
    folder: str | None = None  # where its files are, relative to the page

    @property
    def config(self) -> Mapping[str, Any]:
        return self.run.config

    @property
    def experiment(self) -> str:
        return self.run.experiment

    @property
    def function(self) -> str:
        return self.run.function

    @property
    def command(self) -> str | None:
        """The command the run was last started with; None if that is not recorded."""
        return self.summary.get("command") or self.start.get("command")

    @property
    def final(self) -> Mapping[str, float]:
        return self.summary.get("metrics", {})

    @property
    def metric(self) -> str | None:
        """What the run is scored by."""
        if self.summary:
            return self.summary["metric"]
        logged = [name.removeprefix("val/") for name in self.curves.by_metric if name.startswith("val/")]
        starts = SCORES.get(self.config["task"]) or self.run.task_module.create.metric
        return next((name for name in logged if name.startswith(starts)), None)

    @property
    def headline(self) -> str | None:
        """What the tables compare."""
        return headline(self.run).metric or self.metric

    @property
    def validation(self) -> float | None:
        """The score on the validation data; None for an unfinished run."""
        return self.final.get(self.metric) if self.metric else None

    @property
    def test(self) -> float | None:
        """The score on the test data, of the same weights as ``headline``; None if none were tested."""
        names = [self.headline, *(f"test_{self.metric}{of}" for of in ("@best", "@last", ""))]
        tested = (name for name in names if name and name.startswith("test_"))
        return next((self.final[name] for name in tested if name in self.final), None)

    @property
    def of_steps(self) -> int | None:
        """Number of steps the run has, or will have if that is known."""
        training = self.config["training"]
        if self.summary or training.get("steps"):
            return (self.summary or training).get("steps")
        each = self.curves.steps_per_epoch
        return math.ceil(training["epochs"] * each - 1e-6) if each and training.get("epochs") else None


def read_run(run: Run) -> Shown:
    """A run, finished or not. Raises UserError, ValueError or KeyError if it is damaged."""
    summary, starts = run.summary, run.starts
    seconds = summary.get("throughput", {}).get("seconds")
    return Shown(
        run,
        summary,
        start=starts[-1] if starts else {},
        curves=read_curves(run),
        seconds_per_step=seconds / summary["steps"] if seconds else None,
    )


def page_data(
    runs: Iterable[Shown],
    title: str,
    made_by: str,
    tables: Sequence[Mapping[str, Any]] = (),
    figures: Sequence[Mapping[str, Any]] = (),
    problems: Sequence[str] = (),
    findings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The page's data as JSON will hold them.

    ``problems`` are lines about runs that could not be read, ``findings`` is what ``findings_data`` returns. Runs of
    one experiment that differ in more than functions and seed are distinguished by what differs, and never averaged;
    ``t`` is the quantile of Student's t for 95% intervals, by degrees of freedom from one on.
    """
    runs = sorted(runs, key=lambda run: run.run.name)
    variants = variants_of(runs)
    metrics, curves, points = packed([run.curves for run in runs])
    findings = findings or {"rows": [], "comparisons": {}, "entries": {}}
    names = {run.config["reweight"]["attention"]["name"] for run in runs} | {row["against"] for row in findings["rows"]}
    return {
        "title": title,
        "made_by": made_by,
        "baseline": BASELINE,
        "points": points,
        "functions": {name: look(name) for name in [*STYLES, *sorted(names - STYLES.keys())]},
        "metrics": metrics,
        "experiments": experiments(runs),
        "runs": [
            run_data(run, variant) | {"steps": steps, "curves": of}
            for run, variant, (steps, of) in zip(runs, variants, curves, strict=True)
        ],
        "means": means(runs, variants),
        "tables": list(tables),
        "figures": list(figures),
        "findings": dict(findings),
        "t": [precise(float(stats.t.ppf((1 + CONFIDENCE) / 2, df))) for df in range(1, max(2, len(runs)))],
        "problems": list(problems),
    }


def run_data(run: Shown, variant: str) -> dict[str, Any]:
    config, headline = run.config, run.headline
    return {
        "name": run.run.name,
        "task": config["task"],
        "scale": config["scale"],
        "experiment": run.experiment,
        "function": run.function,
        "variant": variant,
        "attention": config["reweight"]["attention"]["name"],
        "seed": config["seed"],
        "status": run.status,
        "step": run.curves.step,
        "of_steps": run.of_steps,
        "metric": run.metric,
        "headline": headline,
        "value": run.final.get(headline) if headline else None,
        "validation": run.validation,
        "test": run.test,
        "parameters": run.summary.get("parameters", {}).get("total"),
        "steps_per_epoch": rounded(run.curves.steps_per_epoch),
        "seconds_per_step": rounded(run.seconds_per_step),
        "facts": facts(run),
        "final": dict(run.final),
        "config": {key: value for key, value in flatten(config) if key != "description"},
        "command": run.command,
        "pictures": [list(picture) for picture in run.pictures],
        "folder": run.folder,
    }


def facts(run: Shown) -> dict[str, str]:
    """The facts at the top of a run's details."""
    summary = run.summary
    environment = summary.get("environment") or run.start.get("environment", {})
    memory = summary.get("peak_memory_bytes")
    where = [environment.get("gpu") or environment.get("cpu"), f"{environment.get('threads')} threads"]
    parameters = summary.get("parameters", {})
    result = {
        "configuration": summary.get("config_hash"),
        "revision": run.start.get("revision") or summary.get("revision"),
        "finished": summary.get("finished"),
        "machine": ", ".join(filter(None, where)) if environment else None,
        "versions": f"Python {environment.get('python')}, torch {environment.get('torch')}" if environment else None,
        "parameters": ", ".join(f"{name} {count}" for name, count in parameters.items()),
        "peak memory": f"{memory / 2**20:.0f} MiB" if memory else None,
        "signatures": "; ".join(f"{name} {value}" for name, value in summary.get("signatures", {}).items()),
    }
    return {name: str(value) for name, value in result.items() if value}


def variants_of(runs: Sequence[Shown]) -> list[str]:
    """For each run, the settings other than function and seed that differ within its experiment; usually none."""
    groups = defaultdict(list)
    for run in runs:
        groups[run.experiment].append(run.run.setting)
    differ = {
        experiment: [key for key in sorted(set().union(*group)) if len({repr(s.get(key)) for s in group}) > 1]
        for experiment, group in groups.items()
    }
    flat = [dict(flatten(run.config)) for run in runs]
    return [
        ", ".join(f"{key}={values.get(key)}" for key in differ[run.experiment])
        for run, values in zip(runs, flat, strict=True)
    ]


def experiments(runs: Sequence[Shown]) -> dict[str, dict[str, Any]]:
    """By name, what the runs of an experiment have in common."""
    result: dict[str, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda run: run.experiment):
        of = headline(run.run)
        known = result.setdefault(
            run.experiment,
            {
                "task": run.config["task"],
                "data": run.config["data"]["name"],
                "description": description("experiment", run.experiment, run.config["description"]),
                "title": of.title,
                "higher_is_better": of.higher_is_better,
                "metric": None,
                "possible": None,
            },
        )
        known["metric"] = known["metric"] or run.metric
        if run.headline:
            known["possible"] = [value if math.isfinite(value) else None for value in possible(run.headline)]
    return result


def means(runs: Sequence[Shown], variants: Sequence[str]) -> list[dict[str, Any]]:
    """Each function of each experiment: its mean over finished seeds and its paired difference from softmax.

    The best of an experiment comes first.
    """
    groups: dict[tuple[str, str, str], list[Shown]] = defaultdict(list)
    for run, variant in zip(runs, variants, strict=True):
        if run.headline in run.final:
            groups[run.experiment, variant, run.function].append(run)
    result = []
    for (experiment, variant, function), group in groups.items():
        mean = mean_over_seeds(by_seed(group).values(), possible(str(group[0].headline)))
        baseline = groups.get((experiment, variant, BASELINE), []) if function != BASELINE else []
        difference = paired(by_seed(group), by_seed(baseline))
        result.append(
            {
                "experiment": experiment,
                "function": function,
                "variant": variant,
                "metric": group[0].headline,
                "seeds": sorted(run.config["seed"] for run in group),
                "mean": precise(mean.mean),
                "deviation": precise(mean.deviation),
                "interval": precise_span(mean.interval),
                "validation": mean_of(run.validation for run in group),
                "test": mean_of(run.test for run in group),
                "pairs": difference.n if difference else 0,
                "difference": precise(difference.mean) if difference else None,
                "difference_interval": precise_span(difference.interval) if difference else None,
                "p": precise(difference.p) if difference else None,
            }
        )
    sign = {name: -1 if of["higher_is_better"] else 1 for name, of in experiments(runs).items()}
    return sorted(result, key=lambda row: (row["experiment"], row["variant"], sign[row["experiment"]] * row["mean"]))


def by_seed(group: Sequence[Shown]) -> dict[int, float]:
    return {run.config["seed"]: run.final[str(run.headline)] for run in group}


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean; None if any value is missing."""
    known = list(values)
    return None if None in known else precise(fmean(value for value in known if value is not None))


def rounded(value: float | None) -> float | int | None:
    return None if value is None else short(value)


def precise(value: float | None) -> float | None:
    """Twelve digits, which the page rounds again to two: as the tables do, and the same on every machine."""
    return None if value is None else float(f"{value:.12g}")


def precise_span(bounds: tuple[float, float] | None) -> list[float | None] | None:
    return None if bounds is None else [precise(bound) for bound in bounds]
