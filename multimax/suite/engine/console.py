"""What people see of a run: a progress bar on a terminal, plain lines in a log file."""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def say(line: object) -> None:
    print(line, flush=True)


def format_metrics(metrics: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


class Console(AbstractContextManager):
    """A context manager that reports the steps of a run; all processes but the first are ``quiet``."""

    def __init__(self, total_steps: int, start_step: int, quiet: bool):
        self.total_steps, self.quiet = total_steps, quiet
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            disable=quiet or not sys.stdout.isatty(),
        )
        self.task = self.bar.add_task("", total=total_steps, completed=start_step, status="")

    def __enter__(self) -> "Console":
        self.bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.bar.stop()

    def advance(self, step: int) -> None:
        self.bar.update(self.task, completed=step)

    def train(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.bar.update(self.task, status=format_metrics(metrics))
        if self.bar.disable:
            self.say(step, format_metrics(metrics))

    def validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.say(step, f"validation: {format_metrics(metrics)}")

    def say(self, step: int, what: str) -> None:
        if not self.quiet:
            say(f"step {step}/{self.total_steps}  {what}")
