"""What the engine asks of a task."""

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
    """This process's part in the work: rank of world, and the number of micro-batches it makes of its share."""

    rank: int = 0
    world: int = 1
    micro_batches: int = 1


@dataclass(frozen=True)
class Sample:
    """A prediction to look at."""

    caption: str
    picture: Tensor | None = None  # [channels, height, width] in [0, 1]


class Task(ABC):
    """One run's data, model, loss and metrics, made from its configuration. Making it opens the data."""

    metric: str  # the metric that says which checkpoint is best
    higher_is_better: ClassVar[bool]
    unit: ClassVar[str]  # what weight() counts, for the throughput: "images", "tokens"

    config: RunConfig
    left_out: list[LeftOut]  # of the data, or replaced, none of it a larger share than data.max_left_out
    steps_per_epoch: int

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """What the data are, short enough to be kept with the run; the same wherever they lie and on every process.

        It may take seconds to make: one process is enough.
        """

    @abstractmethod
    def match(self, trained: Fingerprint) -> None:
        """Have these data mean what the data of fingerprint ``trained`` meant, whose weights they are to score.

        Classes are matched by name. Raises UserError, which says what differs, for other classes, another vocabulary
        or other preparation of text; the examples themselves may be others.
        """

    def same_outputs(self, trained: Fingerprint) -> bool:
        """Whether what a model says of data of fingerprint ``trained`` means the same of these."""
        try:
            self.match(trained)
        except UserError:
            return False
        return True

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A model with fresh parameters, drawn from torch's generator."""

    @abstractmethod
    def train_batches(self, start_step: int, shard: Shard) -> Iterator[list[Any]]:
        """For step ``start_step`` and each one after it, without end, the micro-batches of this process.

        A pure function of the seed and the step: the same for a resumed run and for any number of processes.
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

        The engine adds them up over all processes and hands the totals to ``metrics``.
        """

    @abstractmethod
    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics from the sums of ``evaluate`` over all processes."""

    def test(self, model: nn.Module, device: torch.device, shard: Shard) -> dict[str, float] | None:
        """As ``evaluate``, over the test data that are scored once at the end of a run; None: the task has none."""
        return None

    def state(self) -> dict[str, Tensor]:
        """What training carries from step to step beside the model, such as a memory: goes into checkpoints.

        Tensors [rows, ...] of this process's rows of the global batch; a checkpoint holds those of all processes in
        order.
        """
        return {}

    def load_state(self, state: dict[str, Tensor], shard: Shard) -> None:  # noqa: B027 most tasks carry nothing
        """Take up ``state`` of all processes, each tensor [batch_size, ...]."""

    def probe(self, model: nn.Module, device: torch.device) -> None:  # noqa: B027 a task may leave it out
        """One forward over a few fixed validation examples, for callers that look at its attention."""

    def samples(self, model: nn.Module, device: torch.device) -> list[Sample]:
        """What the model makes of a few fixed validation examples; it draws no random numbers."""
        return []

    def examples(self, step: int) -> list[int]:
        """What the global batch of ``step`` is made of, to find it again: the numbers of examples, or first tokens."""
        return []

    def summary(self) -> dict[str, Any]:
        """What else a run's summary should hold, such as what was left out of the data."""
        return {}


def require_same(here: Fingerprint, trained: Fingerprint, names: Iterable[str]) -> None:
    """Raise UserError where two fingerprints differ in one of ``names``; what an older one lacks is not known."""
    known = [name for name in names if name in trained]
    if differs := difference({n: here[n] for n in known}, {n: trained[n] for n in known}):
        raise UserError(f"these data are not what the run was trained on ({differs}): point data.root at such data")
