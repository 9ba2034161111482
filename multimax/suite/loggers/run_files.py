"""A run as its files tell it, for those who show it elsewhere."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from multimax.suite.config import experiment_name, identity, reweight_label
from multimax.suite.engine.run_folder import read_lines
from multimax.suite.errors import UserError
from multimax.suite.tasks import task_module


@dataclass(frozen=True)
class Samples:
    """What the model made of a few validation examples at one step.

    ``rows`` are the examples, each a caption and, where it has one, a picture; ``attention`` is a picture of the
    attention weights of one example, a row of the picture for each layer and a column for each head.
    """

    rows: list[tuple[str, Path | None]]
    attention: Path | None


@dataclass(frozen=True)
class RunFiles:
    """The files of a run folder, or of a record made from one, which has no ``starts.jsonl``."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        stored = self.path / "config.yaml"
        if not stored.is_file():
            raise UserError(f"{self.path} is not a run folder: there is no config.yaml in it")
        return yaml.safe_load(stored.read_text())

    @property
    def starts(self) -> list[dict[str, Any]]:
        return read_lines(self.path / "starts.jsonl")

    @property
    def summary(self) -> dict[str, Any] | None:
        """What is known once the run is finished."""
        path = self.path / "summary.json"
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits: the same at every start of a run, another for a run begun again from nothing.

        Made from what determines the run's numbers and from the time of its first start.
        """
        schema = task_module(self.config["task"]).Config
        starts = self.starts
        parts = [identity(self.config, schema), starts[0]["time"] if starts else None]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    @property
    def experiment(self) -> str:
        return experiment_name(self.config)

    @property
    def function(self) -> str:
        return reweight_label(self.config["reweight"])

    @property
    def revision(self) -> str | None:
        """Git revision of the newest start, or of the finished run where the starts are not there."""
        if self.starts:
            return self.starts[-1]["revision"]
        return (self.summary or {}).get("revision")

    def rows(self, offset: int) -> Iterator[tuple[int, dict[str, Any], int]]:
        """From byte ``offset`` of ``metrics.jsonl`` on: each step, all that was logged of it, and where it ends.

        A line that is not whole yet is left for later.
        """
        row: dict[str, Any] = {}
        for line, end in self.lines(offset):
            record = json.loads(line)
            if row and record["step"] != row["step"]:
                yield row["step"], row, offset
                row = {}
            row |= record
            offset = end
        if row:
            yield row["step"], row, offset

    def lines(self, offset: int) -> Iterator[tuple[bytes, int]]:
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                yield line, offset

    def samples(self, step: int) -> Samples | None:
        """What the model made of its samples at ``step``, if they were taken."""
        folder = self.path / "samples" / f"step-{step:08d}"
        stored = folder / "samples.json"
        if not stored.is_file():
            return None
        content = json.loads(stored.read_text())
        rows = [(row["caption"], folder / row["picture"] if row.get("picture") else None) for row in content["rows"]]
        return Samples(rows, folder / content["attention"] if content.get("attention") else None)
