"""Writes a run during training, so that if it is killed, the same command continues from its files."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from multimax.suite.config import NUMERICS, RunConfig
from multimax.suite.data.fingerprint import Fingerprint
from multimax.suite.engine import checkpoint, distributed
from multimax.suite.engine.console import say
from multimax.suite.engine.provenance import code_changes, environment, revision
from multimax.suite.errors import UserError
from multimax.suite.files import flush_to_disk, write_atomic, write_lines, writing
from multimax.suite.identity import changes, digest
from multimax.suite.plugins import sources
from multimax.suite.runs import Run
from multimax.suite.waiting import waiting

LOCK_WAIT = 120  # seconds for a network file system to notice that a machine is gone


class RunWriter:
    """Writes the run of ``config`` to ``path``. It is ``active`` only in the first process; the others write nothing.

    ``command`` starts the run again. Raises UserError, naming what differs, if the folder holds a run with another
    configuration.
    """

    def __init__(self, path: Path, config: RunConfig, active: bool = True, command: str | None = None):
        self.run, self.config, self.active, self.command = Run(path), config, active, command
        self.path, self.metrics, self.starts = path, path / "metrics.jsonl", path / "starts.jsonl"
        self.digest = digest(config)
        if config.numerics != NUMERICS:
            raise UserError(f"numerics={config.numerics}: this code computes by version {NUMERICS}, and no other")
        if self.run.exists and (changed := list(changes(self.run.config, config).values())):
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"{path} holds a run of another configuration ({'; '.join(changed[:3])}{more}): "
                "choose another run_dir, or leave run_dir out"
            )

    def open(self, fingerprint: Callable[[], Fingerprint]) -> None:
        """Take the run lock, and create the folder or continue in an interrupted run's.

        ``fingerprint`` computes the data's fingerprint, which is kept with the run. Raises UserError if another process
        is training the run, or if it is a run on other data.
        """
        if not self.active:
            return
        with writing(self.path):
            self.run.checkpoints.mkdir(parents=True, exist_ok=True)
            self.run_lock = (self.path / ".lock").open("w")
        # A requeued Slurm job may meet the lock of its previous start, whose machine is gone.
        with waiting(f"the process that trains in {self.path}"):
            self.lock(self.run_lock, LOCK_WAIT if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else 0)
        for leftover in self.path.glob(".*.tmp"):  # of a write cut short by a kill
            leftover.unlink(missing_ok=True)
        with waiting("a fingerprint of the data"):
            data = fingerprint()
        if self.run.data is None:
            write_atomic(self.path / "data.json", json.dumps(data, indent=1) + "\n")
        else:
            self.run.check_data(data)
        write_atomic(self.path / "config.yaml", yaml.safe_dump(asdict(self.config), sort_keys=False))

    def lock(self, file: IO[str], wait: float) -> None:
        """Lock ``file``; raises UserError if another process still holds the lock after ``wait`` seconds."""
        ends = time.monotonic() + wait
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= ends:
                    raise UserError(f"{self.path} is being trained by another process") from None
            except OSError as error:
                return say(
                    f"{self.path} is on a file system without locks ({error.strerror}): "
                    "nothing keeps another process from training in it at the same time"
                )
            time.sleep(1)

    def newest_checkpoint(self) -> Path | None:
        """The newest whole checkpoint of the run. The first process looks for it, and the others use the same.

        Damaged newer ones are set aside. Raises UserError if all are damaged, or if the other processes cannot see it.
        """
        found = distributed.from_first(self.newest_whole)
        if found is not None and not found.is_dir():
            raise UserError(f"{found} cannot be seen from every process: run_dir must be on a disk that all share")
        return found

    def newest_whole(self) -> Path | None:
        folder = self.run.checkpoints
        found, skipped = checkpoint.newest(folder, self.digest)
        for path, reason in skipped.items():
            say(f"skipping checkpoint {path}: {reason}")
        if skipped and found is None:
            raise UserError(f"no checkpoint in {folder} is whole: to start over, delete {self.path}")
        for path in skipped:
            checkpoint.set_aside(path)
        return found

    def start(self, step: int) -> None:
        """Record that the run continues from ``step``: with which command, on what machine and with what code.

        Drops the lines of ``metrics.jsonl`` that a killed run wrote after its checkpoint, since they will be written
        again.
        """
        if not self.active:
            return
        write_lines(self.metrics, [r for r in self.run.metrics if r["step"] <= step and step > 0])
        starts = self.run.starts
        start = {
            "step": step,
            "command": self.command,
            "revision": revision(),
            "plugins": sources(asdict(self.config)),
            "time": now(),
            "environment": environment(),
        }
        for line in code_changes(starts[-1], start, "the last start") if starts else ():
            say(line)
        write_lines(self.starts, [*starts, start])

    def say(self, *lines: object) -> None:
        """Print lines, once for all processes."""
        for line in lines if self.active else ():
            say(line)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``; its ``step`` is the number of optimiser steps done."""
        if not self.active:
            return
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Flush ``metrics.jsonl`` to disk: a checkpoint promises all lines up to its step."""
        for path in (self.metrics, self.path):
            if path.exists():
                with writing(path):
                    flush_to_disk(path)

    def finish(self, metrics: Mapping[str, float], of_task: Mapping[str, Any] | None = None, **facts: Any) -> None:
        """Write ``summary.json``: the final metrics, where they come from, and what the task adds.

        What a task adds was valid JSON before training; whatever no longer is, is kept as text.
        """
        if not self.active:
            return
        starts = self.run.starts
        summary = {
            **{str(name): as_json(value) for name, value in (of_task or {}).items()},
            "metrics": metrics,
            "config_hash": self.digest,
            # Several if the code changed between starts of the run.
            "revision": " ".join(dict.fromkeys(str(start["revision"]) for start in starts)),
            "plugins": starts[-1].get("plugins", {}),
            "command": starts[-1].get("command"),
            **facts,
            "environment": starts[-1]["environment"],
            "finished": now(),
        }
        write_atomic(self.path / "summary.json", json.dumps(summary, indent=1) + "\n")


def as_json(value: Any) -> Any:
    """The value, or its text if it cannot be written as JSON."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
