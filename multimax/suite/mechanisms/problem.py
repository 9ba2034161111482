"""What a problem is, and how one run trains on its training rows and is measured at each test length."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from multimax.integrations.sites import create_site
from multimax.reweight import Reweighting
from multimax.suite.config import Optimizer
from multimax.suite.engine.optimizers import create_optimizer
from multimax.suite.measures.attention_rows import row_measures
from multimax.suite.plan import Arm

CHUNK = 2**18  # items that are scored at once
ATTENTION = ("gini", "multi_modality", "mass_below")  # measured on every problem's weights, besides its own measures
FUNCTIONS = ("softmax", "temperature", "scalable_softmax", "multimax", "sparsemax", "entmax15", "evsoftmax")

Batch = tuple[Tensor, Tensor]  # rows and their answers


class Problem(ABC):
    """Rows with answers, the models that learn them, and how an answer is scored.

    ``judge`` is the measure that chooses learning rates, as MEASURE@LENGTH; ``better`` is its good direction.
    """

    name: ClassVar[str]
    variants: ClassVar[Sequence[str]] = ("",)
    measures: ClassVar[Sequence[str]]
    judge: ClassVar[str]
    better: ClassVar[Literal["higher", "lower"]]
    test_lengths: ClassVar[Sequence[int]]
    steps: ClassVar[int]

    def functions(self) -> Sequence[str]:
        """Names of the functions that can be compared."""
        return FUNCTIONS

    @abstractmethod
    def model(self, variant: str, create: Callable[[], Reweighting]) -> nn.Module:
        """A model with every site made by ``create``."""

    @abstractmethod
    def training(self, variant: str, seed: int) -> Iterator[Batch]:
        """Training batches without end."""

    @abstractmethod
    def testing(self, n: int, seed: int) -> Iterator[Batch]:
        """Test rows of ``n`` weights each, the same for all arms with a seed."""

    @abstractmethod
    def loss(self, model: nn.Module, items: Tensor, target: Tensor) -> Tensor: ...

    @abstractmethod
    def score(self, batches: Iterator[Batch]) -> Mapping[str, float]:
        """The ``measures`` over outputs and answers."""


class Generated(Problem):
    """Problems whose rows are generated without end, so every step and every test gets fresh ones."""

    train_lengths: ClassVar[Sequence[int]]
    batch_size: ClassVar[int] = 128
    test_rows: ClassVar[int] = 4096

    @abstractmethod
    def batch(self, size: int, n: int, generator: torch.Generator) -> Batch:
        """Rows of ``n`` items [size, n, ...] and their answers [size, ...]."""

    def training(self, variant: str, seed: int) -> Iterator[Batch]:
        rows = torch.Generator().manual_seed(seed)
        while True:
            n = self.train_lengths[int(torch.randint(len(self.train_lengths), (), generator=rows))]
            yield self.batch(self.batch_size, n, rows)

    def testing(self, n: int, seed: int) -> Iterator[Batch]:
        rows = torch.Generator().manual_seed(2**32 + seed)
        size = max(1, min(self.test_rows, CHUNK // n))
        for _ in range(-(-self.test_rows // size)):
            yield self.batch(size, n, rows)


@dataclass(frozen=True)
class MechanismRuns:
    """Runs of a problem in one of its variants."""

    problem: Problem
    variant: str

    def run(self, arm: Arm, seed: int) -> dict[str, str]:
        """The result of ``run``, and ``seconds``, as text."""
        started = time.monotonic()
        found = run(self.problem, self.variant, arm, seed)
        seconds = f"{time.monotonic() - started:.1f}"
        return {"seconds": seconds} | {name: f"{value:.6g}" for name, value in found.items()}


def run(problem: Problem, variant: str, arm: Arm, seed: int, steps: int | None = None) -> dict[str, float]:
    """Train and measure one model. Arms with the same seed start from the same weights and see the same rows.

    Returns ``MEASURE@LENGTH`` for each measure and test length, and the training loss over the third and last quarter
    of the steps, which show whether it was still falling.
    """
    steps = steps or problem.steps
    torch.manual_seed(seed)
    model = problem.model(variant, partial(create_site, {"name": arm.name}))
    optimizer = create_optimizer(model, Optimizer(learning_rate=arm.rate, weight_decay=0.0))
    warm_up = 0.05 * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / warm_up, 1 - step / steps))
    losses = []
    for items, target in islice(problem.training(variant, seed), steps):
        loss = problem.loss(model, items, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    quarters = torch.stack(losses).chunk(4)
    found = {"third_quarter": quarters[2].mean().item(), "last_quarter": quarters[3].mean().item()}
    for n in problem.test_lengths:
        found |= {f"{name}@{n}": value for name, value in measure(problem, model, n, seed).items()}
    return found


@torch.no_grad()
def measure(problem: Problem, model: nn.Module, n: int, seed: int) -> dict[str, float]:
    """The problem's measures and those of ATTENTION on its test rows of ``n``."""
    weighed: list[dict[str, Tensor]] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...], weights: Tensor) -> None:
        weighed.append(row_measures(weights, inputs[0]))

    hooks = [module.register_forward_hook(look) for module in model.modules() if isinstance(module, Reweighting)]
    found = dict(problem.score((model(items), target) for items, target in problem.testing(n, seed)))
    for hook in hooks:
        hook.remove()
    return found | {name: torch.cat([of[name] for of in weighed]).nanmean().item() for name in ATTENTION}
