"""Run all benchmarks one after the other, each in its own process, then write the report.

    python -m benchmarks [NAME ...] [--device cuda] [--quick] [--results FOLDER]

On two CPU cores this takes a quarter of an hour, on a GPU six minutes. On a GPU several processes
first compile what a benchmark will measure; then it runs alone. If a benchmark fails or takes too
long, what it has measured so far is kept, and the next one starts.
"""

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.bench import RESULTS, line

# For each benchmark: the seconds after which it starts no further comparison, its other options,
# and how many processes compile for it first.
PLAN: dict[str, dict[str, tuple[int, str, int]]] = {
    "cpu": {
        "functions": (260, "--seconds 2.5", 0),
        "attention": (170, "--seconds 3", 0),
        "output_layer": (110, "--seconds 8", 0),
        "training_steps": (150, "--seconds 60", 0),
        "translation": (60, "--seconds 8 --functions multimax softmax --tokens 192 --beam-tokens 72", 0),
        "input": (60, "--seconds 40", 0),
        "language_modeling": (20, "--seconds 3 --functions softmax multimax", 0),
        "convert": (60, "--seconds 12 --functions softmax multimax", 0),
        "compat": (100, "--seconds 6", 0),
        "segments": (60, "--seconds 2", 0),
    },
    "cuda": {
        "functions": (50, "--seconds 0.3", 6),
        "attention": (50, "--seconds 0.4 --functions softmax multimax entmax15", 8),
        "output_layer": (30, "--seconds 0.8", 1),
        "training_steps": (80, "--seconds 6 --functions softmax multimax --models deit", 2),
        "convert": (20, "--seconds 2 --functions softmax multimax", 0),
    },
}
WARMING = 80  # seconds after which compiling is stopped
NEEDS = {"translation": "fairseq", "compat": "entmax", "segments": "torch_geometric"}
GRACE = 60  # seconds that a benchmark has to finish after its limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="the benchmarks to run; all by default")
    parser.add_argument("--device", choices=PLAN, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--results", type=Path, default=RESULTS.parent, help="where benchmarks/ is written")
    arguments = parser.parse_args()
    plan = PLAN[arguments.device]
    if unknown := [name for name in arguments.names if name not in plan]:
        parser.error(f"{unknown[0]}: with --device {arguments.device} there are {', '.join(plan)}")
    names = arguments.names or list(plan)
    failed = []
    for name in names:
        limit = plan[name][0]
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
            print(f"{name}: left out, {NEEDS[name]} is not installed", flush=True)
            continue
        command = [*call(name, arguments.device), "--limit", str(limit), *(["--quick"] * arguments.quick)]
        # Passed only if it differs: the command goes into the record, which then names this folder.
        if arguments.results != RESULTS.parent:
            command += ["--output", str(arguments.results / "benchmarks")]
        if not arguments.quick:
            warm(name, arguments.device)
        started = time.monotonic()
        try:
            failed += [name] * (subprocess.run(command, timeout=limit + GRACE).returncode != 0)
        except subprocess.TimeoutExpired:
            failed.append(name)
        print(f"{name}: {time.monotonic() - started:.0f} s\n", flush=True)
    for table in report.read_tables(arguments.results / "benchmarks", arguments.quick):
        if table.on_gpu == (arguments.device == "cuda"):
            print(*(f"{table.path.stem}: {line(row)}" for row in table.rows), sep="\n")
    report.write(arguments.results, arguments.quick)
    if failed:
        raise SystemExit(f"error: did not finish: {', '.join(failed)}")


def call(name: str, device: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{name}", "--device", device, *PLAN[device][name][1].split()]


def warm(name: str, device: str) -> None:
    """Compile what a benchmark will call, in several processes.

    Failures are ignored here: what fails now fails again when it is measured.
    """
    count, started = PLAN[device][name][2], time.monotonic()
    running = [subprocess.Popen([*call(name, device), "--warm", f"{i}/{count}"]) for i in range(count)]
    for process in running:
        try:
            process.wait(max(0.0, WARMING - (time.monotonic() - started)))
        except subprocess.TimeoutExpired:
            process.kill()
    if running:
        print(f"{name}: compiled in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
