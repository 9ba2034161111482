"""The interface between a task and the engine."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from multimax.suite.config import RunConfig
from multimax.suite.data.fingerprint import Fingerprint, difference
from multimax.suite.data.left_out import LeftOut
from multimax.suite.errors import UserError


@dataclass(frozen=True)
class Shard:
    """This process's part of the work: its rank among ``world``, and the number of micro-batches per step."""

    rank: int = 0
    world: int = 1
    micro_batches: int = 1


@dataclass(frozen=True)
class Sample:
    """A prediction to look at."""

    caption: str
    picture: Tensor | None = None  # [channels, height, width] in [0, 1]


class Task(ABC):
    """One run's data, model, loss and metrics, made from its configuration. The constructor opens the data."""

    metric: str  # the metric that decides which checkpoint is best
    higher_is_better: ClassVar[bool]
    unit: ClassVar[str]  # what weight() counts, for the throughput: "images", "tokens"

    config: RunConfig
    left_out: list[LeftOut]  # or replaced in the data: no larger a share than data.max_left_out
    steps_per_epoch: int

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """A short identification of the data, kept with the run; the same on every disk and in each process.

        It may take seconds to compute, so one process does it.
        """

    @abstractmethod
    def match(self, trained: Fingerprint) -> None:
        """Prepare these data for scoring with weights trained on data with fingerprint ``trained``.

        Classes are matched by name. Raises UserError, saying what differs, for other classes, another vocabulary or
        other text preparation; the examples themselves may differ.
        """

    def same_outputs(self, trained: Fingerprint) -> bool:
        """Whether a model's outputs mean the same for these data as for data with fingerprint ``trained``."""
        try:
            self.match(trained)
        except UserError:
            return False
        return True

    def output_order(self, trained: Fingerprint) -> list[int] | None:
        """For each output, its place in a model of data with fingerprint ``trained``, which order them differently.

        None if they have the same order, or other outputs.
        """
        return None

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A model with fresh parameters, drawn from torch's generator."""

    @abstractmethod
    def train_batches(self, start_step: int, shard: Shard) -> Iterator[list[Any]]:
        """This process's micro-batches for step ``start_step`` and every later step, without end.

        This is a pure function of the seed and the step: the same in a resumed run and with any number of processes.
        """

    @abstractmethod
    def weight(self, batch: Any) -> int:
        """What the loss of a batch is divided by: the number of images or of target tokens in it."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, device: torch.device) -> Tensor:
        """Sum of the loss over a batch."""

    @abstractmethod
    def evaluate(self, model: nn.Module, device: torch.device, shard: Shard) -> dict[str, float]:
        """Sums and counts over this process's part of the validation data, each example in one part.

        The engine sums them over all processes and passes the totals to ``metrics``.
        """

    def look(self, model: nn.Module, device: torch.device) -> None:
        """Run the model over the validation data once, for callers that observe what happens inside it."""
        self.evaluate(model, device, Shard())

    @abstractmethod
    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics from the sums of ``evaluate`` over all processes."""

    def test(self, model: nn.Module, device: torch.device, shard: Shard) -> dict[str, float] | None:
        """Like ``evaluate``, for the test data that are scored once at the end of a run; None if there are none."""
        return None

    def state(self) -> dict[str, Tensor]:
        """State besides the model that training carries from step to step, such as a memory; saved in checkpoints.

        Tensors [rows, ...] for this process's rows of the global batch; a checkpoint holds those of all processes, in
        order.
        """
        return {}

    def load_state(self, state: dict[str, Tensor], shard: Shard) -> None:  # noqa: B027 most tasks carry nothing
        """Restore the ``state`` of all processes, each tensor [batch_size, ...]."""

    def probe(self, model: nn.Module, device: torch.device) -> None:  # noqa: B027 a task may leave it out
        """One forward over a few fixed validation examples, for callers that look at its attention."""

    def samples(self, model: nn.Module, device: torch.device) -> list[Sample]:
        """The model's predictions for a few fixed validation examples; draws no random numbers."""
        return []

    def examples(self, step: int) -> list[int]:
        """Identifies the global batch of ``step``: the indices of its examples or first tokens."""
        return []

    def scored_left_out(self) -> list[LeftOut]:
        """What is left out of, or replaced in, the data that ``evaluate`` scores."""
        return self.left_out

    def signatures(self) -> dict[str, str]:
        """How metrics are computed, by name, where there are several ways."""
        return {}

    def summary(self) -> dict[str, Any]:
        """Further entries of a run's summary, such as what was left out of the data; JSON values.

        Also called before training, to check that they can be written.
        """
        return {}


def require_metric(task: Task, metrics: dict[str, float]) -> None:
    """Raise UserError unless a task, perhaps the user's own, returns its metric, and only numbers."""
    if task.metric not in metrics:
        raise UserError(f"task={task.config.task}: metrics() gives no {task.metric}, its metric")
    for name, value in metrics.items():
        if not isinstance(value, int | float):
            raise UserError(f"task={task.config.task}: metrics() gives {name} as {type(value).__name__}, not a number")


def require_summary(task: Task, reserved: Iterable[str]) -> None:
    """Raise UserError unless ``summary()`` of a task, perhaps the user's own, can be written beside ``reserved``."""
    found: Any = task.summary()
    if not isinstance(found, dict):
        raise UserError(f"task={task.config.task}: summary() gives {type(found).__name__}, not a dict")
    for name, value in found.items():
        if not isinstance(name, str) or name in reserved:
            raise UserError(f"task={task.config.task}: summary() has {name!r}, which is no name that is free there")
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"task={task.config.task}: summary() has {name}, which is no JSON: {error}") from None


def require_same(here: Fingerprint, trained: Fingerprint, names: Iterable[str]) -> None:
    """Raise UserError if two fingerprints differ in any of ``names``; what an older one lacks is not compared."""
    known = [name for name in names if name in trained]
    if differs := difference({n: here[n] for n in known}, {n: trained[n] for n in known}):
        raise UserError(f"these data are not what the run was trained on ({differs}): point data.root at such data")
