"""python -m multimax.report record RUN... | tables | push-wandb RUN..."""

import argparse
from pathlib import Path

from multimax.cli import one_line_errors
from multimax.report.push_wandb import push_wandb
from multimax.report.records import record
from multimax.report.tables import write_tables


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m multimax.report", description="Keep finished runs, and tabulate them."
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="copy the records of finished runs to results/runs, redo the tables")
    recording.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    commands.add_parser("tables", help="redo results/tables from results/runs")
    pushing = commands.add_parser("push-wandb", help="bring W&B up to runs that were trained without it")
    pushing.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    arguments = parser.parse_args()
    if arguments.command == "push-wandb":
        push_wandb(arguments.runs)
        return
    if arguments.command == "record":
        for run in arguments.runs:
            print(f"recorded {record(run, arguments.results / 'runs')}")
    for path in write_tables(arguments.results):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
