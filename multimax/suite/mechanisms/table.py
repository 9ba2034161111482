"""The runs of a problem as one CSV, a line each: filled run by run, and never with a run twice."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

from multimax.suite.engine.console import say
from multimax.suite.engine.provenance import revision
from multimax.suite.errors import UserError
from multimax.suite.files import write_atomic
from multimax.suite.mechanisms import PROBLEMS
from multimax.suite.mechanisms.problem import Arm, Found, Problem, run
from multimax.suite.plan import Comparison

KEY = ("plan", "revision", "function", "variant", "rate", "seed")


@dataclass(frozen=True)
class RunTable:
    """``path`` and the problem whose runs are there.

    Columns are KEY (``plan`` is the digest of the plan's entry, empty for an exploratory run), ``MEASURE@LENGTH`` for
    each measure and test length, ``third_quarter`` and ``last_quarter`` (the training loss over that part of the
    steps) and ``seconds``.
    """

    path: Path
    problem: Problem

    def fill(self, arms: Sequence[Arm], seeds: Iterable[int], plan: str, jobs: int) -> None:
        """Run what is not there yet, each arm with each seed, seed by seed; the table is whole after each run."""
        rows, code = read_table(self.path), revision() or ""
        there = {tuple(row[key] for key in KEY) for row in rows}
        todo = [
            (key, arm, seed)
            for seed, arm in product(seeds, arms)
            if (key := self.key(plan, code, arm, seed)) not in there
        ]
        say(f"{self.problem.name}: {len(todo)} runs to do")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        work = ((self.problem.name, arm, seed) for _, arm, seed in todo)
        for (key, arm, seed), found in zip(todo, in_processes(work, jobs), strict=True):
            rows.append(dict(zip(KEY, key, strict=True)) | cells(found))
            write_atomic(self.path, text(rows))
            measured = "  ".join(
                f"{n}: {found.measures[self.problem.measure, n]:.4g}" for n in self.problem.test_lengths
            )
            say(f"{arm.label}, seed {seed}: {self.problem.measure} at length {measured}")

    def key(self, plan: str, code: str, arm: Arm, seed: int) -> tuple[str, ...]:
        return plan, code, arm.label, arm.variant, f"{arm.rate:g}", str(seed)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table of runs; none if there is no such file."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if path.is_file() else []


def confirm(comparison: Comparison, folder: Path, jobs: int) -> None:
    """Run the comparison as the plan has it. Raises UserError where the code is not the plan's."""
    if (code := revision()) != comparison.revision:
        raise UserError(
            f"{comparison.id} is planned for revision {comparison.revision[:12]}, and the code here is {code}: "
            f"git worktree add ../confirm {comparison.revision[:12]}, and run this there with --plan and --to"
        )
    problem = PROBLEMS[comparison.problem]
    arms = [Arm({"name": name}, comparison.variant, comparison.rates[name]) for name in comparison.functions]
    RunTable(folder / f"{problem.name}.csv", problem).fill(arms, comparison.seeds, comparison.digest, jobs)


def in_processes(work: Iterable[tuple[str, Arm, int]], jobs: int) -> Iterator[Found]:
    """The runs in their order, ``jobs`` at a time, each on one thread so that its numbers do not depend on ``jobs``."""
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(one, work)


def one(work: tuple[str, Arm, int]) -> Found:
    name, arm, seed = work
    return run(PROBLEMS[name], arm, seed)


def cells(found: Found) -> dict[str, str]:
    measures = {f"{name}@{n}": f"{value:.6g}" for (name, n), value in found.measures.items()}
    losses = {"third_quarter": f"{found.third_quarter:.6g}", "last_quarter": f"{found.last_quarter:.6g}"}
    return measures | losses | {"seconds": f"{found.seconds:.1f}"}


def text(rows: Sequence[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
