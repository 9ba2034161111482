"""A task of one's own: of a sequence of keys and values, the value at the largest key."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from multimax.attention import attention as attend
from multimax.integrations.sites import Site, create_site
from multimax.suite.config import RunConfig
from multimax.suite.data.fingerprint import Fingerprint
from multimax.suite.tasks.base import Shard, Task, require_same


@dataclass
class Model:
    dim: int = 32


@dataclass
class Numbers:
    """How the sequences are drawn; ``name`` is part of a run's name."""

    name: str = "numbers"
    length: int = 16
    values: int = 4


@dataclass
class Config(RunConfig):
    model: Model
    data: Numbers


class Batch(NamedTuple):
    items: Tensor  # [batch, length, 1 + values]: keys, and values as one-hot vectors
    targets: Tensor  # [batch]


class Reader(nn.Module):
    """One query that attends to all items, and the reweighting of the output for the loss."""

    def __init__(self, width: int, dim: int, attention: Site, output: Site):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 1, dim))
        self.key, self.value = (
            nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim)),
            nn.Linear(width, dim),
        )
        self.reweight = create_site(attention)
        self.head = nn.Linear(dim, width - 1)
        self.output = create_site(output)  # called output: a run's parameters are counted by site

    def forward(self, items: Tensor, targets: Tensor | None = None) -> Tensor:
        key, value = self.key(items)[:, None], self.value(items)[:, None]
        scores = self.head(attend(self.query.expand(len(items), -1, -1, -1), key, value, self.reweight).flatten(1))
        return scores if targets is None else self.output.loss(scores, targets, reduction="sum")


class Maximum(Task):
    """Scored by accuracy in percent on 512 sequences that are the same in every run."""

    Config = Config
    metric = "accuracy"
    higher_is_better = True
    unit = "sequences"
    left_out = []
    steps_per_epoch = 50

    def __init__(self, config: Config):
        self.config: Config = config
        self.validation = self.draw(512, seed=0)

    def draw(self, count: int, seed: int) -> Batch:
        data, generator = self.config.data, torch.Generator().manual_seed(seed)
        keys = torch.rand(count, data.length, 1, generator=generator)
        values = torch.randint(data.values, (count, data.length), generator=generator)
        targets = values.gather(1, keys.argmax(1)).squeeze(1)
        return Batch(torch.cat([keys, nn.functional.one_hot(values, data.values)], -1), targets)

    def fingerprint(self) -> Fingerprint:
        return {"values": str(self.config.data.values)}

    def match(self, trained: Fingerprint) -> None:
        require_same(self.fingerprint(), trained, ["values"])

    def build_model(self) -> Reader:
        sites = self.config.reweight
        return Reader(1 + self.config.data.values, self.config.model.dim, sites.attention, sites.output)

    def train_batches(self, start_step: int, shard: Shard) -> Iterator[list[Any]]:
        """Drawn from the seed and the step, then cut: the same whoever asks, and from wherever on."""
        step, parts = start_step, shard.world * shard.micro_batches
        while True:
            batch = self.draw(self.config.training.batch_size, seed=1 + self.config.seed * 1_000_003 + step)
            pieces = [Batch(*piece) for piece in zip(*(part.chunk(parts) for part in batch), strict=True)]
            yield pieces[shard.rank * shard.micro_batches : (shard.rank + 1) * shard.micro_batches]
            step += 1

    def weight(self, batch: Batch) -> int:
        return len(batch.targets)

    def loss(self, model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        return model(batch.items.to(device), batch.targets.to(device))

    def evaluate(self, model: nn.Module, device: torch.device, shard: Shard) -> dict[str, float]:
        items, targets = (part[shard.rank :: shard.world].to(device) for part in self.validation)
        right = (model(items).argmax(-1) == targets).sum().item()
        return {"loss": model(items, targets).item(), "right": right, "sequences": len(targets)}

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        return {"accuracy": 100 * sums["right"] / sums["sequences"], "loss": sums["loss"] / sums["sequences"]}
