"""Opening a trained run: its task with the data, and its model as of a checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from multimax.suite.composition import readable_overrides, typed
from multimax.suite.config import NUMERICS
from multimax.suite.engine import checkpoint, distributed, precision
from multimax.suite.engine.provenance import changes_since
from multimax.suite.errors import UserError
from multimax.suite.overrides import merge
from multimax.suite.plugins import sources
from multimax.suite.runs import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenRun:
    """A run with the weights named by ``checkpoint``: last, best, average, or a folder such as step-00001234.

    ``overrides`` are KEY=VALUE pairs for its configuration; ``ema`` takes the checkpoint's averaged weights; ``needs``
    names the task that the run must have. Each part is opened on first use; the configuration is read and the
    checkpoint found before the data and the model, which take time. Every part raises UserError.
    """

    run: Run
    overrides: Sequence[str] = ()
    checkpoint: str = "last"
    ema: bool = False
    needs: str | None = None

    @property
    def path(self) -> Path:
        return self.run.path

    @cached_property
    def config(self) -> Any:
        """The run's configuration, of its task's class. Raises UserError if the run has another task than ``needs``."""
        composed = OmegaConf.create({"numerics": 1} | self.run.config)
        if composed.numerics != NUMERICS:
            logger.warning(
                "%s was computed by version %s of the numerics, and this code is version %s: its numbers may differ",
                self.path,
                composed.numerics,
                NUMERICS,
            )
        task = composed.get("task")
        if self.needs not in (None, task):
            raise UserError(f"{self.path} is a run of task={task}: this needs one of task={self.needs}")
        overrides = readable_overrides(self.overrides)
        merge(composed, overrides)
        config = typed(composed, overrides=overrides)
        for line in changes_since(self.run, sources(asdict(config))):
            logger.warning(line)
        return config

    @cached_property
    def checkpoints(self) -> list[Path]:
        """The requested checkpoint, or the ones to average."""
        higher_is_better = self.run.task_module.create.higher_is_better
        count = self.config.training.average_checkpoints
        if self.checkpoint == "average" and (count is None or self.ema):
            raise UserError(
                "--checkpoint average is of the weights that a run with training.average_checkpoints=N kept"
            )

        def found() -> list[Path]:
            names = [self.checkpoint]
            if self.checkpoint == "average":
                assert count is not None
                names = [path.name for path in checkpoint.newest_scored(folder, count)] or ["last"]
            return [checkpoint.find(folder, name, higher_is_better) for name in names]

        folder = self.run.checkpoints
        return distributed.from_first(found)

    @property
    def names(self) -> str:
        """The names of the checkpoints' folders, in one line."""
        return " ".join(path.name for path in self.checkpoints)

    @cached_property
    def task(self) -> Any:  # a Task, which callers narrow to the one they need
        """The task with its data, which must have the classes or vocabulary of the run's training."""
        _ = self.checkpoints
        task = self.run.task_module.create(self.config)
        if self.run.data is not None:
            task.match(self.run.data)
        return task

    @cached_property
    def device(self) -> torch.device:
        device = distributed.choose_device(self.config.training.device)
        precision.set_up(device, self.config.training)
        return device

    @cached_property
    def model(self) -> Any:
        """The model in evaluation mode."""
        for path in self.checkpoints:
            try:
                checkpoint.verify(path)
            except ValueError as error:
                raise UserError(f"checkpoint {path} is damaged: {error}") from None
        model: nn.Module = self.task.build_model().to(self.device)
        if self.checkpoint == "average":
            checkpoint.load_average(self.checkpoints, model, self.device)
        else:
            checkpoint.load_weights(self.checkpoints[0], model, "ema" if self.ema else "model", self.device)
        return model.eval()

    def autocast(self) -> torch.autocast:
        """The precision that the run was trained in."""
        return precision.autocast(self.device, self.config.training.precision)
