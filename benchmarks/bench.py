"""What the benchmarks share: their command line, their table, and the record of where it was measured.

All tables have the same columns (``COLUMNS``, explained in benchmarks/README.md), so that one program draws them and
compares them with the aims.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Call, compare, copy_bandwidth
from multimax import reweight
from multimax.suite.engine.memory import keep_freed_memory
from multimax.suite.engine.provenance import environment, revision
from multimax.suite.files import write_atomic
from multimax.suite.text_tables import csv_table

RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks"
PEERS = ("entmax", "liger_kernel", "fairseq_fixed", "timm", "torch_geometric", "triton")

COLUMNS = (
    *("part", "case", "size", "function", "way", "direction", "milliseconds", "low", "high", "repeats", "ratio"),
    *("peak_mb", "gb_per_s", "of_copy", "per_s", "error", "same_bits", "note"),
)

FORWARD, BOTH = "forward", "forward + backward"
BACKWARD = "backward"  # of a kernel by itself


@dataclass(frozen=True)
class Contestant:
    """A function, a way to compute it, and the call that does so.

    Gradients are computed for the inputs and for ``parameters``. ``directions`` are the ones to
    measure, ``within`` makes the context of every call, and ``note`` goes into the rows.
    """

    function: str
    way: str
    call: Callable[..., Tensor]
    parameters: Sequence[Tensor] = ()
    directions: Sequence[str] = (FORWARD, BOTH)
    within: Callable[[], AbstractContextManager[object]] = nullcontext
    note: str = ""

    def forward(self, inputs: Sequence[Tensor]) -> object:
        with self.within(), torch.no_grad():
            return self.call(*(tensor.detach() for tensor in inputs))

    def both(self, inputs: Sequence[Tensor], grad: Tensor) -> object:
        with self.within():
            return torch.autograd.grad(self.call(*inputs), [*inputs, *self.parameters], grad)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    result.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    functions = reweight.available()
    fast = [name for name in functions if reweight.create(name).row_kernel() is not None]
    result.add_argument("--functions", nargs="+", default=fast, choices=functions, help="default: those with a kernel")
    result.add_argument("--seconds", type=float, default=4.0, help="of each comparison, without its first calls")
    result.add_argument("--limit", type=float, default=600.0, help="seconds after which no comparison is begun")
    result.add_argument("--output", type=Path, default=RESULTS, help="folder of the table and its record")
    result.add_argument(
        "--warm",
        type=share,
        metavar="I/K",
        help="measure and write nothing: call every K-th contestant once, from the I-th on, so that K processes "
        "together compile what the benchmark will then find on disk",
    )
    return result


def program(
    name: str, doc: str | None, run: Callable[["Benchmark"], None], **options: Mapping[str, Any]
) -> Callable[[], None]:
    """The ``main`` of a benchmark.

    ``options`` has the arguments of ``add_argument`` for each of the benchmark's own options.
    """

    def main() -> None:
        known = parser(doc)
        for option, settings in options.items():
            known.add_argument(f"--{option.replace('_', '-')}", **settings)
        benchmark = Benchmark(name, known.parse_args())
        run(benchmark)
        benchmark.save()

    return main


def share(text: str) -> tuple[int, int]:
    """(I, K) of "I/K". Raises ValueError for anything else."""
    first, count = map(int, text.split("/"))
    if not 0 <= first < count:
        raise ValueError(text)
    return first, count


@dataclass
class Benchmark:
    """A table that is printed as it grows, and written with its record by ``save``."""

    name: str
    arguments: argparse.Namespace
    rows: list[dict[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    calls: int = 0  # that ``warm`` has seen so far

    def __post_init__(self) -> None:
        self.device = torch.device(self.arguments.device)
        self.quick: bool = self.arguments.quick
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.started = time.monotonic()
        self.revision = revision()
        if self.device.type == "cpu":
            keep_freed_memory()  # as training does; glibc's defaults make softmax itself several times slower
        torch.manual_seed(0)
        self.copy = copy_bandwidth(self.device, 1 if self.quick or self.arguments.warm else 512)

    def race(
        self,
        part: str,
        case: str,
        contestants: Sequence[Contestant],
        inputs: Sequence[Tensor],
        *,
        size: int | None = None,
        moved: Mapping[str, float] | None = None,
        units: int | None = None,
        directions: Sequence[str] = (FORWARD, BOTH),
    ) -> None:
        """Measure contestants on ``inputs``, and compare each with the first.

        Args:
            part, case, size: what is measured, on what, and the number that grows from case to case.
            moved: bytes that each direction has to move.
            units: tokens or images that a call processes.
            directions: FORWARD, without a graph, and BOTH, with gradients of all inputs and parameters.
        """
        for direction in directions:
            runners = [c for c in contestants if direction in c.directions]
            if direction == FORWARD:
                calls: list[Call] = [partial(c.forward, inputs) for c in runners]
            else:
                with torch.no_grad():
                    out = contestants[0].call(*inputs)
                calls = [partial(c.both, inputs, torch.randn_like(out)) for c in runners]
            names = [(c.function, c.way, c.note) for c in runners]
            least = (moved or {}).get(direction)
            self.measure(part, case, direction, names, calls, size=size, moved=least, units=units)

    def measure(
        self,
        part: str,
        case: str,
        direction: str,
        names: Sequence[tuple[str, str] | tuple[str, str, str]],
        calls: Sequence[Call],
        *,
        size: int | None = None,
        moved: float | None = None,
        units: int | None = None,
        in_a_row: int = 1,
    ) -> None:
        """Add a row for each call, named (function, way) or (function, way, note).

        A call repeats its work ``in_a_row`` times; its row has the time of one repetition. The
        other arguments are as for ``race``.
        """
        if self.arguments.warm:
            self.warm(calls)
            return
        if time.monotonic() - self.started > self.arguments.limit:
            self.left_out.append(f"{part}, {case}, {direction}: out of time")
            return
        seconds, repeats = (0.01, 3) if self.quick else (self.arguments.seconds, 50)
        results = [each.divided_by(in_a_row) for each in compare(calls, self.device, seconds=seconds, repeats=repeats)]
        for (function, way, *note), found in zip(names, results, strict=True):
            row: dict[str, Any] = {"part": part, "case": case, "size": size, "function": function, "way": way}
            row |= {"direction": direction, "note": found.failure or "".join(note)}
            if not found.failure:
                rate = moved and moved / found.milliseconds * 1000
                row |= {
                    "milliseconds": f"{found.milliseconds:.4g}",
                    "low": f"{found.low:.4g}",
                    "high": f"{found.high:.4g}",
                    "repeats": found.repeats,
                    "ratio": f"{found.ratio:.3f}",
                    "peak_mb": f"{found.peak_bytes / 2**20:.4g}",
                    "gb_per_s": rate and f"{rate / 1e9:.4g}",
                    "of_copy": rate and f"{rate / self.copy:.3f}",
                    "per_s": units and f"{units / found.milliseconds * 1000:.4g}",
                }
            self.add(row)
        self.save()  # now, in case a later case crashes

    def warm(self, calls: Sequence[Call]) -> None:
        """Make this process's share of the calls, so that what they compile ends up on disk."""
        first, count = self.arguments.warm
        for call in calls:
            if self.calls % count == first:
                try:
                    call()
                except Exception as error:  # which the benchmark will note in its table
                    print(f"{self.name}: {type(error).__name__}", flush=True)
            self.calls += 1

    def compile(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Compile ``function`` for fixed shapes; ``--quick`` skips the long compilation."""
        torch.compiler.reset()  # after a few shapes of one function it would silently run uncompiled
        return torch.compile(function, dynamic=False, backend="eager" if self.quick else "inductor")

    def add(self, row: Mapping[str, Any]) -> None:
        known = {column: "" if row.get(column) is None else str(row[column]) for column in COLUMNS}
        self.rows.append(known)
        if len(self.rows) == 1:
            print(line(dict(zip(COLUMNS, COLUMNS, strict=True))))
        print(line(known), flush=True)

    def leave_out(self, reason: str) -> None:
        """Say in the record, and now, what is not measured here and why."""
        self.left_out.append(reason)
        print(f"{self.name}: {reason}", flush=True)

    def save(self) -> None:
        """Write ``NAME_DEVICE.csv``, and ``.json`` with where and how it was measured."""
        if self.arguments.warm:
            return
        folder: Path = self.arguments.output
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.name}_{device_name(self.device)}"
        write_atomic(folder / f"{stem}.csv", csv_table(COLUMNS, self.rows))
        write_atomic(folder / f"{stem}.json", json.dumps(self.record(), indent=1) + "\n")

    def record(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "command": " ".join(["python -m", f"benchmarks.{self.name}", *sys.argv[1:]]),
            "quick": self.quick,
            "revision": self.revision,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.started),
            "environment": environment() | {"load": os.getloadavg()},
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else environment()["cpu"],
            "dtype": str(self.dtype).removeprefix("torch."),
            "copy_gb_per_s": round(self.copy / 1e9, 2),
            "allocator": allocator(self.device),
            "peers": {name: version(name) for name in PEERS},
            "left_out": self.left_out,
        }


def allocator(device: torch.device) -> dict[str, Any]:
    """What decides how memory is allocated: variables of glibc, jemalloc and torch, and what this process set."""
    prefixes = ("MALLOC_", "LD_PRELOAD", "PYTORCH_CUDA_ALLOC", "PYTORCH_ALLOC")
    variables = {key: value for key, value in os.environ.items() if key.startswith(prefixes)}
    return {"variables": variables, "keeps_freed_memory": device.type == "cpu"}


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    """The device in names of files: cpu, or the GPU's name in lower case with underscores."""
    if device.type != "cuda":
        return device.type
    return "_".join(torch.cuda.get_device_name(device).lower().replace("-", " ").split())


def line(row: Mapping[str, str]) -> str:
    name = ", ".join(filter(None, (row["part"], row["case"], row["function"], row["way"], row["direction"])))
    numbers = [f"{row[column][:12]:>12}" for column in ("milliseconds", "ratio", "peak_mb", "of_copy", "per_s")]
    rest = "  ".join(filter(None, (row["error"], row["same_bits"], row["note"])))
    return f"{name:<88}{''.join(numbers)}  {rest}"
