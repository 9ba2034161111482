"""Run folders with the files that training would write, without any training."""

from pathlib import Path

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.config import RunConfig
from multimax.suite.engine.run_writer import RunWriter


def configuration(*overrides: str) -> RunConfig:
    return typed(compose_configuration(["task=deit", *overrides]))


def log_steps(folder: RunWriter, first: int, last: int) -> None:
    """Log what a run logs that reports every step and is evaluated every third."""
    for step in range(first, last + 1):
        folder.log({"step": step, "epoch": step / 10, "train/loss": 1 / step})
        if step % 3 == 0:
            folder.log({"step": step, "epoch": step / 10, "val/top1": 10.0 * step, "val/loss": 2 / step})


def begin(path: Path, *overrides: str, step: int = 0) -> RunWriter:
    """Start the run in a folder, or restart it from ``step``."""
    folder = RunWriter(path, configuration(*overrides))
    folder.open(dict)
    folder.start(step)
    return folder


def finished_run(path: Path, *overrides: str, steps: int = 7) -> RunWriter:
    folder = begin(path, *overrides)
    log_steps(folder, 1, steps)
    folder.finish({"top1": 10.0 * steps}, metric="top1", steps=steps)
    folder.run_lock.close()
    return folder


def merged(records: list[dict]) -> dict[int, dict]:
    """Everything that a run logged, by step."""
    rows: dict[int, dict] = {}
    for record in records:
        rows.setdefault(record["step"], {}).update(record)
    return rows


def shown(history: list[dict]) -> list[dict]:
    """The rows of W&B's history without what W&B adds itself."""
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in history]
