"""A run on disk: being trained, finished, or what is kept of a finished one under ``results/runs`` (a record).

    config.yaml     what it computes, from which its name follows
    data.json       the fingerprint of its data
    starts.jsonl    each start: command, revision, machine, hashes of plugins
    metrics.jsonl   what it logged, step by step
    summary.json    the final metrics, there once the run is finished
    checkpoints/ samples/ analysis/

These files are the truth about a run. ``engine.run_writer`` writes the first five, ``engine.checkpoint``,
``engine.observation`` and ``figures.commands`` the folders; loggers and reports read them, and add their own.
A record has no starts, checkpoints or samples, and records made before fingerprints were kept have no ``data.json``. A
record that was sent from elsewhere has ``origin.json``, written by ``report.merge``.
"""

import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from multimax.suite.data.fingerprint import Fingerprint, difference
from multimax.suite.errors import UserError
from multimax.suite.files import read_lines
from multimax.suite.identity import experiment_name, reweight_label, setting
from multimax.suite.shapes import NUMBER, check_known, check_shape
from multimax.suite.tasks import task_of

SUMMARY: dict[str, Any] = {
    "metrics": {...: NUMBER},
    "metric": str,
    "config_hash": str,
    "revision": str,
    "plugins": {...: str},
    "command": (str, type(None)),
    "steps": int,
    "processes": int,
    "skipped_steps": int,
    "parameters": {...: int},
    "throughput": {...: NUMBER},
    "peak_memory_bytes": int,
    "environment": dict,
    "finished": str,
}
"""What the suite puts into a summary; a task may add to it."""
CONFIG = {
    **dict.fromkeys(("task", "scale", "description"), str),
    "experiment": (str, type(None)),
    "seed": int,
    **dict.fromkeys(("model", "data", "training"), dict),
    "reweight": {...: (dict, type(None))},
}
"""What is read from a configuration without opening the run."""
MAPS = ("maps", "rollout", "gradcam", "alignment", "heads")
ROWS = [{"label": str, "panels": [{"title": str, "values": [[NUMBER]]}]}]
SITE: dict[str, Any] = {name: [NUMBER] for name in ("rows", "middle", "scores", "weights")}
SITE |= {"means": {...: [(*NUMBER, type(None))]}, "scores_from": NUMBER, "tiny": NUMBER}
ANALYSES: dict[str, dict[str, Any]] = {
    "oversmoothing": {"measured": [{"step": int, "epoch": NUMBER, "patch_similarity": [NUMBER], "mad": [NUMBER]}]},
    "statistics": {
        "function": str,
        "attentions": {...: SITE},
        "modulators": {...: {"scores": [NUMBER], "modulated": [[NUMBER]]}},
    },
    **{kind: {"input": (str, list), "rows": ROWS} for kind in MAPS},
}
"""What is read from the analyses that ``python -m multimax.suite.figures`` keeps, by the command that made them."""
PICTURE, WORDS = {"image": str, "query": (int, type(None))}, {"keys": [str], "queries": [str]}
"""Maps are drawn over a picture, or beside the words of a text."""


@dataclass(frozen=True)
class Samples:
    """The model's predictions for a few validation examples at one step.

    ``rows`` are the examples, each a caption and, where it has one, a picture; ``attention`` is a picture of the
    attention weights of one example, a row of the picture for each layer and a column for each head.
    """

    rows: list[tuple[str, Path | None]]
    attention: Path | None


@dataclass(frozen=True)
class Run:
    """The run in the folder ``path``. Everything is read on access; only ``config`` is cached."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def exists(self) -> bool:
        return (self.path / "config.yaml").is_file()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration as nested dicts. Raises UserError if there is none or it cannot be read."""
        stored = self.path / "config.yaml"
        if not self.exists:
            raise UserError(f"{self.path} is not a run folder: there is no config.yaml in it")
        try:
            config = yaml.safe_load(stored.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{stored} cannot be read ({reason}): name another run folder") from None
        if not isinstance(config, dict):
            raise UserError(f"{stored} is not the configuration of a run: name another run folder")
        check_known(config, CONFIG, str(stored))
        for site in ("attention", "output") if "reweight" in config else ():
            function = (config["reweight"].get(site) or {}).get("name")
            check_shape(function, str, f"{stored}: reweight.{site}.name")
        return config

    @property
    def data(self) -> Fingerprint | None:
        """The fingerprint of the run's data; None if it was not kept."""
        found = self._json("data.json")
        for name, value in (found or {}).items():
            shape: Any = [str] if isinstance(value, list) else {...: int} if isinstance(value, dict) else str
            check_shape(value, shape, f"{self.path / 'data.json'}: {name}")
        return found

    def check_data(self, fingerprint: Fingerprint) -> None:
        """Raise UserError, naming what differs, unless ``fingerprint`` is that of the run's data or none was kept."""
        if self.data is not None and (differs := difference(fingerprint, self.data)):
            raise UserError(
                f"{self.path} is a run of other data ({differs}): point data.root at those, or choose another run_dir"
            )

    @property
    def starts(self) -> list[dict[str, Any]]:
        path = self.path / "starts.jsonl"
        found = read_lines(path)
        for number, start in enumerate(found, start=1):
            check_shape(start.get("step"), int, f"line {number} of {path}: step")
            check_shape(start.get("revision"), (str, type(None)), f"line {number} of {path}: revision")
        return found

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: each has its ``step``, and a step may have several lines."""
        path = self.path / "metrics.jsonl"
        found = read_lines(path)
        for number, line in enumerate(found, start=1):
            check_line(line, f"line {number} of {path}")
        return found

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def summary(self) -> dict[str, Any]:
        """The final metrics and facts; empty while the run is not finished. Raises UserError if it is damaged."""
        found, path = self._json("summary.json") or {}, str(self.path / "summary.json")
        check_known(found, SUMMARY, path)
        if "metric" in found and found["metric"] not in found.get("metrics", ()):
            raise UserError(f"{path} is damaged: there is no {found['metric']}, its score, among its metrics")
        return found

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def final(self) -> dict[str, float]:
        """The metrics of the last step; empty while the run is not finished."""
        return self.summary.get("metrics", {})

    @property
    def score(self) -> float | None:
        """The final value of the metric that the task is judged by; None while the run is not finished."""
        summary = self.summary
        return summary["metrics"][summary["metric"]] if summary else None

    @property
    def experiment(self) -> str:
        return experiment_name(self.config)

    @property
    def function(self) -> str:
        return reweight_label(self.config["reweight"])

    @property
    def task_module(self) -> Any:
        """The module of the run's task, with its plugins. Raises UserError if these cannot be found."""
        return task_of(self.config)

    @property
    def setting(self) -> dict[str, Any]:
        """What determines the run's numbers, without reweighting and seed: equal for runs that compare functions."""
        return setting(self.config, self.task_module.Config)

    @property
    def revision(self) -> str | None:
        """Git revision of the newest start, or of the finished run if the starts are not recorded."""
        starts = self.starts
        return starts[-1]["revision"] if starts else self.summary.get("revision")

    @property
    def origin(self) -> dict[str, Any] | None:
        """For a merged record: ``from`` whom it is, what it is a run ``of``, and the SHA-256 of its ``weights``."""
        return self._json("origin.json")

    def analysis(self, kind: str) -> dict[str, Any] | None:
        """What ``python -m multimax.suite.figures`` saved of the run in KIND.json; None if that was not run."""
        found = self._json(f"analysis/{kind}.json")
        if found is not None:
            where = str(self.path / "analysis" / f"{kind}.json")
            shapes = ANALYSES.get(kind, {})
            if kind in MAPS:
                shapes = shapes | (PICTURE if "image" in found else WORDS)
            check_shape({key: value for key, value in found.items() if key in shapes}, shapes, where)
            if empty := [key for key in ("measured", "rows", "attentions") if key in shapes and not found[key]]:
                raise UserError(f"{where}: {empty[0]} is empty: make it again, or delete the file")
        return found

    def is_trained_now(self) -> bool:
        """Whether a process holds the run lock."""
        lock = self.path / ".lock"
        if not lock.exists():
            return False
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def rows(self, offset: int = 0) -> Iterator[tuple[int, dict[str, Any], int]]:
        """From byte ``offset`` of ``metrics.jsonl`` on: each step, everything logged for it, and where it ends.

        A line that is not yet complete is left for later.
        """
        for step, lines in groupby(self._whole_lines(offset), key=lambda line: line[0]["step"]):
            row: dict[str, Any] = {}
            for record, end in lines:
                row |= record
                offset = end
            yield step, row, offset

    def _whole_lines(self, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    record = json.loads(line)
                except ValueError:
                    record = line
                check_line(record, f"{path}, after byte {offset}")
                offset += len(line)
                yield record, offset

    def samples(self, step: int) -> Samples | None:
        """The samples of ``step``; None if none were taken."""
        folder = self.samples_folder(step)
        content = self._json(str(folder.relative_to(self.path) / "samples.json"))
        if content is None:
            return None
        rows = [(row["caption"], folder / row["picture"] if row.get("picture") else None) for row in content["rows"]]
        return Samples(rows, folder / content["attention"] if content.get("attention") else None)

    def samples_folder(self, step: int) -> Path:
        return self.path / "samples" / f"step-{step:08d}"

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {error}") from None
        check_shape(found, dict, str(path))
        return found


def check_line(line: Any, where: str) -> None:
    """Raise UserError unless this is a line of ``metrics.jsonl``."""
    check_shape(line, {...: NUMBER}, where)
    check_shape(line.get("step"), int, f"{where}: step")


def read_runs(folder: Path) -> list[Run]:
    """The finished runs or records in a folder, by name. Raises UserError for one that lacks what tables need."""
    runs = [Run(path.parent) for path in sorted(folder.glob("*/summary.json"))]
    for run in runs:
        for name, content, keys in (
            ("config.yaml", run.config, ("task", "experiment", "seed", "reweight")),
            ("summary.json", run.summary, ("metrics", "metric", "revision")),
        ):
            if missing := [key for key in keys if key not in content]:
                raise UserError(f"{run.path / name} is damaged, it lacks {missing[0]}: restore or delete the run")
    return runs
