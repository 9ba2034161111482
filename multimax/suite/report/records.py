"""Records: what the repository keeps of a finished run, which is everything but the weights."""

import copy
import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from multimax.suite.data.fingerprint import difference
from multimax.suite.errors import UserError
from multimax.suite.files import write_atomic
from multimax.suite.measures.oversmoothing import summary as oversmoothing_summary
from multimax.suite.runs import Run

PLACES = ("data.root", "data.cache_dir", "run_dir", "runs_dir", "init_from", "extends")
"""Where things were on the machine that trained the run: private, and not part of what it computed."""


def final_metrics(run: Run) -> dict[str, float]:
    """The metrics of the last step, and ``patch_similarity`` and ``mad`` over layers if they were measured."""
    metrics = dict(run.final)
    if found := run.analysis("oversmoothing"):
        last = found["measured"][-1]
        metrics |= oversmoothing_summary(last) if last["step"] == run.summary["steps"] else {}
    return metrics


def require_finished(run: Run) -> None:
    """Raise UserError unless this is a finished run."""
    if not run.finished:
        raise UserError(f"{run.path} is not a finished run: there is no summary.json in it")


def record(run: Run, folder: Path) -> Path:
    """Copy the configuration, metrics and summary of a finished run into ``folder`` and return where they are.

    The JSON files of its analysis are copied too; pictures are redrawn from these. Raises UserError if ``run`` is not
    finished, or if its existing record is of other data.
    """
    require_finished(run)
    target = folder / run.name
    there = Run(target).data if target.is_dir() else None
    if there is not None and (differs := difference(run.data or {}, there, f"in {target}")):
        raise UserError(f"{run.path} is a run of other data than its record ({differs}): remove {target} first")
    target.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(run.config)
    for section, key in found_in(config, PLACES):
        section[key] = None
    write_atomic(target / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    summary = dict(run.summary)
    if summary.get("command"):
        summary["command"] = command_without_places(summary["command"])
    kept_as_they_are = (run.path / name for name in ("metrics.jsonl", "data.json", "origin.json"))
    for path in (*kept_as_they_are, *sorted((run.path / "analysis").glob("*.json"))):
        if path.is_file():
            kept = target / path.relative_to(run.path)
            kept.parent.mkdir(exist_ok=True)
            write_atomic(kept, path.read_bytes())
    write_atomic(target / "summary.json", json.dumps(summary, indent=1) + "\n")  # last, as this makes it a record
    return target


def found_in(config: dict[str, Any], names: Iterable[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Which of the keys, such as ``data.root``, the configuration has, each as its section and its name there."""
    for *sections, key in (name.split(".") for name in names):
        section = config.get(sections[0], {}) if sections else config
        if key in section:
            yield section, key


def command_without_places(command: str) -> str:
    """A command line with PATH in place of each of ``PLACES`` and of the user's configuration folder."""
    words = shlex.split(command)
    if "--config-dir" in words:
        words[words.index("--config-dir") + 1] = "PATH"
    return shlex.join(f"{key}=PATH" if (key := word.partition("=")[0]) in PLACES else word for word in words)
