"""Which classes are among a row's marked items: each must be detected, and no others.

    target_c = whether an item i of class c is marked

An item is [strength, class]: the strength of its mark is uniform on [0.5, 1.5], or 0 if it has none, and the class is
one-hot. A classifier after the attention sees only how much weight went to each class. As in the mean of marked items,
the marks differ in strength; but the weights need not be equal, as long as the least of the marked classes exceeds what
leaks to the others.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimax.reweight import Reweighting
from multimax.suite.mechanisms.marked_mean import Gathered, marks
from multimax.suite.mechanisms.problem import Batch, Generated

CLASSES = 16
WIDTH = 64
MOST_MARKED = 6


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(CLASSES, WIDTH), nn.GELU(), nn.Linear(WIDTH, CLASSES))


class SetPredictionProblem(Generated):
    name = "set_prediction"
    variants = ("linear", "mlp")
    measures = ("accuracy", "loss")
    judge, better = "accuracy@32", "higher"
    train_lengths = range(16, 65)
    test_lengths = (32, 128, 512)
    batch_size, test_rows = 64, 1024
    steps = 800

    def model(self, variant: str, create: Callable[[], Reweighting]) -> nn.Module:
        return Gathered(variant, create(), CLASSES, classifier)

    def batch(self, size: int, n: int, generator: torch.Generator) -> Batch:
        marked, strength = marks(size, n, MOST_MARKED, generator)
        classes = F.one_hot(torch.randint(CLASSES, (size, n), generator=generator), CLASSES).float()
        target = (classes * marked.unsqueeze(-1)).amax(-2)
        return torch.cat([strength.unsqueeze(-1), classes], -1), target

    def loss(self, model: nn.Module, items: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(items), target)

    def score(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Share of rows whose whole set is right, in percent, and the mean loss per class, in nats."""
        right, loss = [], []
        for output, target in batches:
            right.append(((output > 0) == (target > 0)).all(-1).float())
            loss.append(F.binary_cross_entropy_with_logits(output, target, reduction="none").mean(-1))
        return {"accuracy": 100 * torch.cat(right).mean().item(), "loss": torch.cat(loss).mean().item()}
