"""Records: what of a finished run is worth keeping in the repository, without its weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from multimax.suite.config import experiment_name, reweight_label, setting
from multimax.suite.engine.run_folder import write_atomic
from multimax.suite.errors import UserError
from multimax.suite.measures.oversmoothing import summary as oversmoothing_summary
from multimax.suite.tasks import task_module

PLACES = (("data", "root"), ("data", "cache_dir"), ("run_dir",))
"""Where things were on the machine of a run: nobody else's business, and no part of what it computed."""


@dataclass
class Record:
    """A run in ``results/runs``. ``config`` and ``summary`` are the run's files as nested dicts."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @property
    def experiment(self) -> str:
        return experiment_name(self.config)

    @property
    def function(self) -> str:
        return reweight_label(self.config["reweight"])

    @property
    def setting(self) -> dict[str, Any]:
        return setting(self.config, task_module(self.config["task"]).Config)

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last step: the summary's, and if they were measured ``patch_similarity`` and ``mad``, over layers."""
        metrics = dict(self.summary["metrics"])
        if found := self.analysis("oversmoothing"):
            last = found["measured"][-1]
            metrics |= oversmoothing_summary(last) if last["step"] == self.summary["steps"] else {}
        return metrics

    def analysis(self, kind: str) -> dict[str, Any] | None:
        """What ``python -m multimax.suite.figures`` kept of the run in KIND.json; None if that was not run."""
        path = self.path / "analysis" / f"{kind}.json"
        return json.loads(path.read_text()) if path.is_file() else None


def record(run: Path, folder: Path) -> Path:
    """Copy the configuration, metrics and summary of a finished run into ``folder`` and return where they are.

    What its analysis kept as JSON comes along; pictures are drawn again from that. Raises UserError if ``run`` is not a
    finished run.
    """
    if not (run / "summary.json").is_file():
        raise UserError(f"{run} is not a finished run: there is no summary.json in it")
    config = yaml.safe_load((run / "config.yaml").read_text())
    for *parents, key in PLACES:
        node = config
        for parent in parents:
            node = node[parent]
        if key in node:
            node[key] = None
    target = folder / run.resolve().name
    target.mkdir(parents=True, exist_ok=True)
    write_atomic(target / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    for name in ("metrics.jsonl", "summary.json"):
        write_atomic(target / name, (run / name).read_text())
    for kept in sorted((run / "analysis").glob("*.json")):
        (target / "analysis").mkdir(exist_ok=True)
        write_atomic(target / "analysis" / kept.name, kept.read_text())
    return target


def read_records(folder: Path) -> list[Record]:
    """All records in a folder, by name."""
    return [
        Record(path.parent, yaml.safe_load((path.parent / "config.yaml").read_text()), json.loads(path.read_text()))
        for path in sorted(folder.glob("*/summary.json"))
    ]
