"""The folder of a run: ``config.yaml``, ``starts.jsonl``, ``metrics.jsonl``, ``summary.json`` and ``checkpoints/``.

These files are the truth about a run; a logger mirrors them.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from multimax.suite.config import RunConfig, digest, flatten, identity
from multimax.suite.engine.checkpoint import flush_to_disk
from multimax.suite.engine.console import say
from multimax.suite.engine.provenance import environment, revision
from multimax.suite.errors import UserError

LOCK_WAIT = 120  # seconds after which a network file system has noticed that a machine has gone


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that a full or broken disk does not take ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; the same command continues the run"
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Replace a file by one rename, so that a reader or a kill never meets half of it. Raises UserError."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


class RunFolder:
    """A run's folder, held by one run at a time, whose first process is its ``writer``; the others only read.

    Raises UserError if the folder belongs to a run with another configuration, naming what differs.
    """

    def __init__(self, path: Path, config: RunConfig, writer: bool = True):
        self.path, self.config, self.writer = path, config, writer
        self.run = digest(config)
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.starts = path / "starts.jsonl"
        stored = path / "config.yaml"
        if stored.exists():
            check_same_run(path, read_config(stored), config)

    def claim(self) -> None:
        """Make the folder, or take over that of an interrupted run; raises UserError if the run is going on now."""
        if not self.writer:
            return
        with writing(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.lock = (self.path / ".lock").open("w")
        # What Slurm starts again may meet the lock of its own former start, whose machine has gone.
        self.take(self.lock, LOCK_WAIT if int(os.environ.get("SLURM_RESTART_COUNT", 0)) else 0)
        write_atomic(self.path / "config.yaml", yaml.safe_dump(asdict(self.config), sort_keys=False))

    def take(self, lock: IO[str], wait: float) -> None:
        """Lock the folder; if another process has, raise UserError after ``wait`` seconds."""
        ends = time.monotonic() + wait
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= ends:
                    raise UserError(f"{self.path} is being trained by another process") from None
            except OSError as error:
                return say(
                    f"{self.path} is on a file system without locks ({error.strerror}): "
                    "nothing keeps another process from training in it at the same time"
                )
            time.sleep(1)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``; it has ``step``, the number of optimiser steps done."""
        if not self.writer:
            return
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Have ``metrics.jsonl`` on the disk: a checkpoint that is there stands for all lines up to its step."""
        for path in (self.metrics, self.path):
            if path.exists():
                with writing(path):
                    flush_to_disk(path)

    def start(self, step: int) -> None:
        """Note that the run goes on from ``step``, on what machine and with what code.

        Drops the lines of ``metrics.jsonl`` that a killed run wrote after its checkpoint: they will be written again.
        """
        if not self.writer:
            return
        write_lines(self.metrics, [r for r in read_lines(self.metrics) if r["step"] <= step and step > 0])
        start = {"step": step, "revision": revision(), "time": now(), "environment": environment()}
        write_lines(self.starts, [*read_lines(self.starts), start])

    def finish(self, metrics: Mapping[str, float], **facts: Any) -> None:
        """Write ``summary.json``: the final metrics and what they came from."""
        if not self.writer:
            return
        starts = read_lines(self.starts)
        summary = {
            "metrics": metrics,
            "config_hash": self.run,
            # More than one if the code changed between the starts of the run.
            "revision": " ".join(dict.fromkeys(str(start["revision"]) for start in starts)),
            **facts,
            "environment": starts[-1]["environment"],
            "finished": now(),
        }
        write_atomic(self.path / "summary.json", json.dumps(summary, indent=1) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None."""
        path = self.path / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run's ``metrics.jsonl``."""
    return read_lines(path / "metrics.jsonl")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, if it is there; a last line that a kill cut short is left out.

    Raises UserError if another line is none: to go on without it would hide a loss.
    """
    records = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise UserError(f"line {number} of {path} is damaged: mend it, or delete it to go on without") from None
    return records


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines at once. Appending would join a new line to one that a kill cut short."""
    write_atomic(path, "".join(f"{json.dumps(record)}\n" for record in records))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_config(path: Path) -> dict[str, Any]:
    """A run's ``config.yaml``, which can hold text and numbers only; raises UserError if it holds anything else."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({reason}): choose another run_dir") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not the configuration of a run: choose another run_dir")
    return config


def check_same_run(path: Path, stored: Mapping[str, Any], config: RunConfig) -> None:
    schema, values = type(config), asdict(config)
    old, new = identity(stored, schema), identity(values, schema)
    was, is_now = dict(flatten(stored)), dict(flatten(values))
    changed = [
        f"{key} was {was.get(key)}, now {is_now.get(key)}"
        for key in sorted({*old, *new})
        if old.get(key, ...) != new.get(key, ...)
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{path} holds a run of another configuration ({'; '.join(changed[:3])}{more}): "
            "choose another run_dir, or leave run_dir out"
        )
