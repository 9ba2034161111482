"""Add runs that somebody else packed to ``results/runs``, once all of them pass the checks.

The file does not say where its runs go: a record's folder follows from its configuration, like a run's. The checks
cannot tell whether the numbers were computed at all; a contributor can be held to the fingerprint of the weights, which
is kept.
"""

import json
import math
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.config import NUMERICS, RunConfig
from multimax.suite.data.fingerprint import difference
from multimax.suite.engine.provenance import git
from multimax.suite.errors import UserError
from multimax.suite.files import write_atomic, write_lines
from multimax.suite.identity import digest, identity, run_name
from multimax.suite.plan import Arm, read_plan
from multimax.suite.plugins import modules
from multimax.suite.report.claims import Claims, read_claims, tests
from multimax.suite.report.metrics import HEADLINE, possible
from multimax.suite.report.pack import unpack
from multimax.suite.report.records import final_metrics, record
from multimax.suite.report.tables import experiments
from multimax.suite.runs import Run, read_runs
from multimax.suite.tasks import MODULES

MEASURED_LATER = ("patch_similarity", "mad")  # by python -m multimax.suite.figures oversmoothing


@dataclass(frozen=True)
class Wanted:
    """What asked for a run: the names of claims, or of an entry of the plan, and the arguments of train.py."""

    names: tuple[str, ...]
    metrics: frozenset[str]
    overrides: Sequence[str]


def merge(file: Path, results: Path, exploratory: bool = False) -> list[tuple[Path, str]]:
    """Add a file's runs to the records, all or none; returns each record and what it is a run of.

    Runs that neither a claim nor the plan asked for are only added if ``exploratory``. Raises UserError.
    """
    packed, claims = unpack(file), read_claims(results / "claims.yaml")
    known = read_runs(results / "runs")
    with tempfile.TemporaryDirectory() as folder:
        staged: list[tuple[Run, tuple[str, ...]]] = []
        for number, content in enumerate(packed["runs"]):
            where = f"{file}: runs[{number}]"
            run, names = checked(where, content, claims, results, Path(folder), exploratory)
            check_new(where, run, [*known, *(other for other, _ in staged)])
            origin = {"from": packed["from"], "of": names, "weights": content["weights"]}
            write_atomic(run.path / "origin.json", json.dumps(origin, indent=1) + "\n")
            staged.append((run, names))
        experiments([*known, *(run for run, _ in staged)])
        return [(record(run, results / "runs"), ", ".join(names) or "exploratory") for run, names in staged]


def checked(
    where: str, content: dict[str, Any], claims: Claims, results: Path, folder: Path, exploratory: bool
) -> tuple[Run, tuple[str, ...]]:
    """The packed run as a run in ``folder``, and what asked for it. Raises UserError if it cannot be accepted."""
    summary = content["summary"]
    config = configuration(where, content["config"], summary["processes"])
    if summary["config_hash"] != digest(config):
        raise UserError(
            f"{where}: config_hash is {summary['config_hash']}, and its configuration's is {digest(config)}"
        )
    for revision in summary["revision"].split(" "):
        check_revision(where, revision)
    asked = asking(config, claims, results)
    if asked is None and not exploratory:
        raise UserError(
            f"{where} has a configuration and seed that no claim and no entry of the plan asks for; as exploratory "
            "runs, which give no verdict: --exploratory"
        )
    if asked is not None:
        wanted = typed(compose_configuration(asked.overrides))
        if config.experiment != wanted.experiment:
            raise UserError(f"{where}: experiment is {config.experiment}, and should be {wanted.experiment}")
        config.description = wanted.description
        summary = summary | {"command": f"python train.py {' '.join(asked.overrides)}"}
    check_metrics(where, config, summary, content["metrics"])
    if not content["data"]:
        raise UserError(f"{where}: data is empty: without a fingerprint nobody knows what it was trained on")
    if content["weights"] is not None and not re.fullmatch("[0-9a-f]{64}", content["weights"]):
        raise UserError(f"{where}: weights should be a SHA-256")
    run = Run(folder / run_name(config))
    (run.path / "analysis").mkdir(parents=True, exist_ok=True)
    write_atomic(run.path / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
    write_atomic(run.path / "summary.json", json.dumps(summary))
    write_atomic(run.path / "data.json", json.dumps(content["data"], indent=1) + "\n")
    write_lines(run.path / "metrics.jsonl", content["metrics"])
    if content["oversmoothing"]:
        measured = {"measured": content["oversmoothing"]}
        write_atomic(run.path / "analysis" / "oversmoothing.json", json.dumps(measured))
    check_complete(where, run, asked)
    return run, asked.names if asked else ()


def configuration(where: str, content: dict[str, Any], processes: int) -> RunConfig:
    """The packed configuration, typed and checked as for a run started here."""
    if modules(content):
        raise UserError(f"{where}: config names code that is not ours ({modules(content)[0]}): it cannot be merged")
    if content.get("task") not in MODULES:
        raise UserError(f"{where}: config: there is no task {content.get('task')}")
    try:
        config = typed(OmegaConf.create(content), max(1, processes))
    except UserError as error:
        raise UserError(f"{where}: config: {error}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: config cannot be read: {' '.join(str(error).split())[:200]}") from None
    if config.numerics != NUMERICS:
        raise UserError(f"{where} has numerics={config.numerics}, and this code {NUMERICS}: its numbers are others")
    if not re.fullmatch(r"[\w.+-]+", config.data.name) or not re.fullmatch(r"[\w.+-]*", config.experiment or ""):
        raise UserError(f"{where}: data.name and experiment have letters, digits and _.+- alone, as names of files")
    return config


def check_revision(where: str, revision: str) -> None:
    """Raise UserError unless ``revision`` is a commit of this repository that gives the same numbers as this code."""
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise UserError(f"{where}: revision {revision} is not a commit: train from a clean worktree")
    try:
        code = git("show", f"{revision}:multimax/suite/config.py")
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            f"{where}: revision {revision[:12]} is not in this clone: git fetch, or it is not ours"
        ) from None
    found = re.search(r"^NUMERICS = (\d+)$", code, re.MULTILINE)
    if not found or int(found[1]) != NUMERICS:
        raise UserError(f"{where}: revision {revision[:12]} has numerics {found and found[1]}, this code {NUMERICS}")


def asking(config: RunConfig, claims: Claims, results: Path) -> Wanted | None:
    """What asked for a run of this configuration and seed; None if nothing did."""
    own = without_seed(config)
    of_claims = [
        (claim, overrides)
        for claim, overrides in tests(claims)
        if config.seed in claim.seeds and own == identity_of(*overrides)
    ]
    if of_claims:
        metrics = frozenset(claim.metric for claim, _ in of_claims if claim.metric)
        names = tuple(dict.fromkeys(claim.id for claim, _ in of_claims))
        return Wanted(names, metrics, [*of_claims[0][1], f"seed={config.seed}"])
    for name, overrides in of_plan(results / "plan.yaml", config.seed):
        if own == identity_of(*overrides):
            return Wanted((name,), frozenset(), overrides)
    return None


def of_plan(path: Path, seed: int) -> Iterator[tuple[str, list[str]]]:
    """The arguments of train.py for the plan's runs with this seed, by entry."""
    from multimax.suite.planned.training import Trainings

    for entry in read_plan(path).values() if path.is_file() else ():
        if entry.problem == "train" and seed in entry.seeds:
            trainings = Trainings(entry.overrides, entry.arms, (), Path())
            for name, rate in entry.rates.items():
                yield entry.id, trainings.command(Arm(name, rate), seed)


@cache
def identity_of(*overrides: str) -> dict[str, Any]:
    return without_seed(typed(compose_configuration(overrides)))


def without_seed(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in identity(asdict(config), type(config)).items() if key != "seed"}


def check_metrics(where: str, config: RunConfig, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Raise UserError unless the rows are a complete run's and the summary agrees with their end."""
    steps, training = summary["steps"], config.training
    scored = [row for row in rows if "val/loss" in row]
    logged = [row.get("step", 0) for row in rows]
    if steps < 1 or not scored or not all(isinstance(step, int) and 1 <= step <= steps for step in logged):
        raise UserError(f"{where}: metrics are not those of {steps} steps")
    if logged != sorted(logged):
        raise UserError(f"{where}: metrics are not in the order of their steps")
    if not all(math.isfinite(value) for row in rows for value in row.values()):
        raise UserError(f"{where}: metrics are not all finite")
    last = scored[-1]
    epochs = last.get("epoch", 0)
    per_epoch = round(steps / epochs) if epochs > 0 and steps / epochs < math.inf else 0
    if per_epoch < 1 or last["step"] != steps or training.total_steps(per_epoch) != steps:
        raise UserError(f"{where}: metrics end before the run does, or it is of another length than its configuration")
    for name, every in (("train/loss", training.log_every), ("val/loss", training.evaluate_every or per_epoch)):
        there = {row["step"] for row in rows if name in row}
        if missing := next((step for step in chain(range(every, steps, every), [steps]) if step not in there), None):
            raise UserError(f"{where}: metrics lack {name} of step {missing}")
    check_summary(where, config, summary, scored)


def check_summary(where: str, config: RunConfig, summary: dict[str, Any], scored: list[dict[str, Any]]) -> None:
    last = {name.removeprefix("val/"): value for name, value in scored[-1].items() if name.startswith("val/")}
    metrics, metric = summary["metrics"], summary["metric"]
    # The best is over all evaluations, whichever direction is better.
    values = [row[f"val/{metric}"] for row in scored if f"val/{metric}" in row]
    pick = max if HEADLINE[config.task].higher_is_better else min
    expected = last | ({f"best_{metric}": pick(values)} if values else {})
    for name, value in expected.items():
        if metrics.get(name) != value:
            raise UserError(f"{where}: summary has {name} {metrics.get(name)}, and metrics have {value}")
    if unknown := [name for name in metrics if name not in expected and not name.startswith("test_")]:
        raise UserError(f"{where}: summary has {unknown[0]}, and metrics have not")
    for name, value in metrics.items():
        low, high = possible(name.removeprefix("best_"))
        if not (math.isfinite(value) and low <= value <= high):
            raise UserError(f"{where}: {name} cannot be {value}")
    counts = (summary["processes"], summary["parameters"].get("total", 0), summary["throughput"].get("seconds", 0))
    if metric not in metrics or not all(math.isfinite(count) and count > 0 for count in counts):
        raise UserError(f"{where}: summary lacks {metric}, or a count that is above zero")
    if not 0 <= summary["skipped_steps"] <= summary["steps"] or summary["peak_memory_bytes"] < 0:
        raise UserError(f"{where}: skipped_steps or peak_memory_bytes cannot be")
    try:
        datetime.fromisoformat(summary["finished"])
    except ValueError:
        raise UserError(f"{where}: finished is {summary['finished']}, which is not a time") from None


def check_complete(where: str, run: Run, asked: Wanted | None) -> None:
    """Raise UserError if a metric is missing that is needed by the tables or the claims that asked for the run."""
    headline = HEADLINE[run.config["task"]].metric
    needed = {run.summary["metric"], *([headline] if headline else []), *(asked.metrics if asked else ())}
    for measured in (run.analysis("oversmoothing") or {"measured": ()})["measured"]:
        for name in MEASURED_LATER:
            low, high = possible(name)
            if not measured[name] or not all(low <= value <= high for value in measured[name]):
                raise UserError(f"{where}: oversmoothing: {name} of step {measured['step']} cannot be")
    found = final_metrics(run)
    if missing := needed - found.keys() - {*MEASURED_LATER}:
        raise UserError(f"{where}: summary lacks {min(missing)}, which a table needs")


def check_new(where: str, run: Run, known: Sequence[Run]) -> None:
    """Raise UserError if there already is a run of this configuration and seed, or of this setting on other data."""
    schema = run.task_module.Config
    own, setting = identity(run.config, schema), run.setting
    for other in known:
        if other.config["task"] != run.config["task"]:
            continue
        if other.name == run.name or identity(other.config, schema) == own:
            raise UserError(f"{where} has the configuration and the seed of {other.name}, which is there: leave it out")
        same = run.data and other.data and other.setting == setting
        if same and (differs := difference(run.data, other.data, f"in {other.name}")):  # type: ignore[arg-type]
            raise UserError(f"{where} is a run of other data ({differs})")
