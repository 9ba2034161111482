"""All benchmarks one after the other, each in a process of its own, and the report on them.

    python -m benchmarks [NAME ...] [--device cuda] [--quick] [--results FOLDER]

On two CPU cores this takes a quarter of an hour, on a GPU six minutes, what is least known first. A benchmark that
fails or takes too long leaves behind what it has measured, and the next one follows.
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

# Seconds after which a benchmark begins nothing more, and what else it is told.
PLAN: dict[str, dict[str, tuple[int, str]]] = {
    "cpu": {
        "functions": (220, "--seconds 2.5"),
        "attention": (170, "--seconds 3"),
        "output_layer": (110, "--seconds 8"),
        "training_steps": (150, "--seconds 60"),
        "translation": (60, "--seconds 8 --functions multimax softmax --size paper --tokens 192 --beam-tokens 72"),
        "language_modeling": (20, "--seconds 3 --functions softmax multimax"),
    },
    "cuda": {
        "functions": (80, "--seconds 0.5"),
        "attention": (90, "--seconds 0.5 --functions softmax multimax entmax15"),
        "flash_blocks": (40, "--seconds 0.5"),
        "output_layer": (30, "--seconds 1"),
        "training_steps": (60, "--seconds 4 --functions softmax multimax --models deit"),
    },
}
NEEDS = {"translation": "fairseq"}
GRACE = 60  # seconds that a benchmark has to end once it should begin nothing more


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
    failed = []
    for name in arguments.names or plan:
        limit, options = plan[name]
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
            print(f"{name}: left out, {NEEDS[name]} is not installed", flush=True)
            continue
        command = [sys.executable, "-m", f"benchmarks.{name}", "--device", arguments.device, "--limit", str(limit)]
        command += [*options.split(), *(["--quick"] * arguments.quick)]
        if arguments.results != RESULTS.parent:  # else the record would name a folder of this machine
            command += ["--output", str(arguments.results / "benchmarks")]
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
        raise SystemExit(f"error: did not come to their ends: {', '.join(failed)}")


if __name__ == "__main__":
    main()
