"""The runs of a plan's entry as one CSV, a line each, filled run by run, never with the same run twice."""

import base64
import csv
import io
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Protocol

import numpy
import torch
from torch import Tensor

from multimax.suite.engine.console import say
from multimax.suite.engine.provenance import revision
from multimax.suite.errors import UserError
from multimax.suite.files import alone, write_atomic, writing
from multimax.suite.plan import Arm
from multimax.suite.plugins import import_plugins
from multimax.suite.processes import worker_processes
from multimax.suite.text_tables import csv_table

KEY = ("plan", "revision", "arm", "rate", "seed")


class Runs(Protocol):
    """How an entry's runs are made."""

    def run(self, arm: Arm, seed: int) -> dict[str, str]:
        """The cells of one run, by column."""


@dataclass(frozen=True)
class RunTable:
    """The runs in ``path``.

    Columns are KEY (``plan`` is the digest of the plan's entry, empty for runs that confirm nothing) and whatever was
    measured, including ``seconds``. A run without a value for a column has an empty cell.
    """

    path: Path
    runs: Runs
    plugins: Sequence[str] = ()  # modules that each process imports first

    def fill(self, arms: Sequence[Arm], seeds: Iterable[int], plan: str, jobs: int) -> None:
        """Do the missing runs of each arm with each seed, seed by seed; the file is whole after each run.

        Raises UserError if the code has uncommitted changes, since no revision would identify it.
        """
        code = revision()
        if code is None or code.endswith("-dirty"):
            raise UserError("the code here is not that of a revision: commit the changes, or run from a clean worktree")
        there = keys(read_table(self.path))
        every = [((plan, code, arm.name, f"{arm.rate:g}", str(seed)), arm, seed) for seed, arm in product(seeds, arms)]
        todo = [of for of in every if of[0] not in there]
        say(f"{self.path}: {len(every) - len(todo)} of {len(every)} runs are there, {len(todo)} to do")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        work = ((self.runs, arm, seed) for _, arm, seed in todo)
        for number, found in in_processes(work, jobs, self.plugins):
            key, arm, seed = todo[number]
            with alone(self.path.parent):
                rows = read_table(self.path)  # which another process may have added to
                if key not in keys(rows):
                    write_atomic(self.path, text([*rows, dict(zip(KEY, key, strict=True)) | found]))
            say(f"{arm.name} at {arm.rate:g}, seed {seed}: {found['seconds']} s")


def keys(rows: Iterable[dict[str, str]]) -> set[tuple[str, ...]]:
    return {tuple(row[key] for key in KEY) for row in rows}


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table of runs; none if there is no such file. Raises UserError if it is damaged."""
    if not path.is_file():
        return []
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if missing := [key for key in KEY if key not in (reader.fieldnames or ())]:
        raise UserError(f"{path} is not a table of runs: it has no column {missing[0]}")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values() or not all(map(is_whole, row.items())):
            raise UserError(f"line {number} of {path} is damaged: restore it, or delete it to run it again")
    return rows


def measured(row: Mapping[str, str], measure: str, table: str) -> float:
    """What a run in TABLE.csv measured. Raises UserError if that is missing or not a finite number."""
    cell = row.get(measure, "")
    if not cell or not math.isfinite(value := float(cell)):
        what = f"{measure} is {cell}" if cell else f"there is no {measure}"
        raise UserError(f"{table}.csv: {row['arm']}, seed {row['seed']}: {what}; docs/method.md says what this means")
    return value


def is_whole(cell: tuple[str, str]) -> bool:
    """Whether a cell has what its column is for: text, a seed, or a number, which may be missing."""
    column, value = cell
    if column in ("plan", "revision", "arm", "data") or column.startswith("examples:"):
        return True
    if column == "seed":
        return value.isdecimal()
    try:
        return not value or math.isfinite(float(value)) or column != "rate"
    except ValueError:
        return False


def in_processes(
    work: Iterable[tuple[Runs, Arm, int]], jobs: int, plugins: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Runs as they end, each with its position in ``work``; ``jobs`` run at a time.

    Each has one thread, so its numbers do not depend on ``jobs``.
    """
    with worker_processes(jobs, partial(start, plugins)) as pool:
        numbers = {pool.submit(one, of): number for number, of in enumerate(work)}
        try:
            for run in as_completed(numbers):
                yield numbers[run], run.result()
        finally:
            for run in numbers:
                run.cancel()


def start(plugins: Sequence[str]) -> None:
    torch.set_num_threads(1)
    import_plugins(plugins)


def one(work: tuple[Runs, Arm, int]) -> dict[str, str]:
    runs, arm, seed = work
    try:
        return runs.run(arm, seed)
    except KeyboardInterrupt:  # from a terminal, which also means the runs still in this process's queue
        os._exit(130)


def text(rows: Sequence[dict[str, str]]) -> str:
    columns = dict.fromkeys(column for row in rows for column in row)
    return csv_table(list(columns), rows).decode()


def packed(values: Tensor) -> str:
    """Values [examples] as the text of a cell; ``unpacked`` reads it."""
    return base64.b64encode(zlib.compress(values.float().cpu().numpy().astype("<f4").tobytes(), 9)).decode()


def unpacked(text: str) -> numpy.ndarray:
    """float64 [examples]."""
    return numpy.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f4").astype(numpy.float64)
