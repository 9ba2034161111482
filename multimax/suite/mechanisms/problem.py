"""What a problem is, and one run of it: train on its short rows, measure on each of its test lengths."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from multimax.integrations.sites import create_site
from multimax.reweight import Reweighting
from multimax.suite.config import Optimizer
from multimax.suite.engine.optimization import create_optimizer
from multimax.suite.measures.attention_rows import row_measures
from multimax.suite.plan import Arm

TEST_ROWS = 4096
CHUNK = 2**18  # items that are scored at once
ATTENTION = (
    "gini",
    "multi_modality",
    "mass_below",
)  # of the rows of attention, at every test length beside the problem's measure


class Problem(ABC):
    """A generator of rows with their answers, the models that learn it, and how an answer is scored."""

    name: ClassVar[str]
    variants: ClassVar[Sequence[str]] = ("",)
    measure: ClassVar[str]
    train_lengths: ClassVar[Sequence[int]]
    test_lengths: ClassVar[Sequence[int]]
    steps: ClassVar[int]
    batch_size: ClassVar[int]

    @abstractmethod
    def model(self, variant: str, create: Callable[[], Reweighting]) -> nn.Module:
        """A model whose every site of attention is made by ``create``."""

    @abstractmethod
    def batch(self, size: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of ``n`` items [size, n, ...] and their answers [size, ...]."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor: ...

    @abstractmethod
    def score(self, batches: Iterator[tuple[Tensor, Tensor]]) -> float:
        """The measure over outputs and answers."""


@dataclass(frozen=True)
class Found:
    """Measures by name and test length, and the training loss over the third and over the last quarter of the steps."""

    measures: dict[tuple[str, int], float]
    third_quarter: float
    last_quarter: float
    seconds: float


@dataclass(frozen=True)
class MechanismRuns:
    """Runs of a problem in one variant of its model."""

    problem: Problem
    variant: str

    def run(self, arm: Arm, seed: int) -> dict[str, str]:
        """``MEASURE@LENGTH`` for each measure and test length, the losses of ``Found`` and ``seconds``."""
        found = run(self.problem, self.variant, arm, seed)
        measures = {f"{name}@{n}": f"{value:.6g}" for (name, n), value in found.measures.items()}
        losses = {"third_quarter": f"{found.third_quarter:.6g}", "last_quarter": f"{found.last_quarter:.6g}"}
        return {"seconds": f"{found.seconds:.1f}"} | losses | measures


def run(problem: Problem, variant: str, arm: Arm, seed: int, steps: int | None = None) -> Found:
    """Train and measure one model. Arms with the same seed start from the same weights and see the same rows."""
    started, steps = time.monotonic(), steps or problem.steps
    torch.manual_seed(seed)
    model = problem.model(variant, partial(create_site, {"name": arm.name}))
    optimizer = create_optimizer(model, Optimizer(learning_rate=arm.rate, weight_decay=0.0))
    warm_up = 0.05 * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / warm_up, 1 - step / steps))
    rows = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        n = problem.train_lengths[int(torch.randint(len(problem.train_lengths), (), generator=rows))]
        items, target = problem.batch(problem.batch_size, n, rows)
        loss = problem.loss(model(items), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    quarters = torch.stack(losses).chunk(4)
    measures = {
        (name, n): value for n in problem.test_lengths for name, value in measure(problem, model, n, seed).items()
    }
    return Found(measures, quarters[2].mean().item(), quarters[3].mean().item(), time.monotonic() - started)


@torch.no_grad()
def measure(problem: Problem, model: nn.Module, n: int, seed: int) -> dict[str, float]:
    """The problem's measure and those of ATTENTION on fresh rows of ``n`` items, the same for all arms of a seed."""
    rows = torch.Generator().manual_seed(2**32 + seed)
    size = max(1, min(TEST_ROWS, CHUNK // n))
    batches = (problem.batch(size, n, rows) for _ in range(-(-TEST_ROWS // size)))
    attention: list[dict[str, Tensor]] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...], weights: Tensor) -> None:
        attention.append(row_measures(weights, inputs[0]))

    hooks = [module.register_forward_hook(look) for module in model.modules() if isinstance(module, Reweighting)]
    found = {problem.measure: problem.score((model(items), target) for items, target in batches)}
    for hook in hooks:
        hook.remove()
    return found | {name: torch.cat([of[name] for of in attention]).nanmean().item() for name in ATTENTION}
