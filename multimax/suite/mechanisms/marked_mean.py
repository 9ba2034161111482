"""The mean of a few marked items among many: a row of attention must weigh some entries equally and drop the others.

    target = mean of content_i over the items i that are marked

An item is [strength, content]: the strength of its mark is uniform on [0.5, 1.5], or 0 if it has none, and its content
is normal. Marks of different strength must count equally, so a softmax of scores that are linear in the strength has to
choose between weighing them equally and dropping the rest.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from multimax.reweight import Reweighting
from multimax.suite.mechanisms.problem import Batch, Generated

CONTENT = 8
MOST_MARKED = 8
HIDDEN = 32


class Gathered(nn.Module):
    """One query over items [batch, n, 1 + content], and ``value`` applied to the content that it gathers.

    An item's score is a linear map of it, or a small network if ``scorer`` is "mlp".
    """

    def __init__(self, scorer: str, reweight: Reweighting, content: int, value: Callable[[], nn.Module]):
        super().__init__()
        mlp = nn.Sequential(nn.Linear(1 + content, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        self.scorer = mlp if scorer == "mlp" else nn.Linear(1 + content, 1)
        self.reweight = reweight
        self.value = value()

    def forward(self, items: Tensor) -> Tensor:
        weights = self.reweight(self.scorer(items).squeeze(-1))
        return self.value((weights.unsqueeze(-2) @ items[..., 1:]).squeeze(-2))


class MeanOfContents(Generated):
    """Problems whose answers are means of some items' contents."""

    measures = ("error",)
    better = "lower"

    def loss(self, model: nn.Module, items: Tensor, target: Tensor) -> Tensor:
        return (model(items) - target).square().mean()

    def score(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Squared error relative to that of always answering zero; 0 is best."""
        error = total = 0.0
        for output, target in batches:
            error += (output - target).square().sum().item()
            total += target.square().sum().item()
        return {"error": error / total}


class MarkedMeanProblem(MeanOfContents):
    name = "marked_mean"
    variants = ("linear", "mlp")
    judge = "error@32"
    train_lengths = range(16, 65)
    test_lengths = (32, 64, 128, 256, 512, 1024)
    steps = 2000

    def model(self, variant: str, create: Callable[[], Reweighting]) -> nn.Module:
        return Gathered(variant, create(), CONTENT, lambda: nn.Linear(CONTENT, CONTENT))

    def batch(self, size: int, n: int, generator: torch.Generator) -> Batch:
        marked, strength = marks(size, n, MOST_MARKED, generator)
        content = torch.randn(size, n, CONTENT, generator=generator)
        target = (content * marked.unsqueeze(-1)).sum(-2) / marked.sum(-1, keepdim=True)
        return torch.cat([strength.unsqueeze(-1), content], -1), target


def marks(size: int, n: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which of ``n`` items are marked, one to ``most`` in each row, and the strength of each mark; both [size, n]."""
    count = torch.randint(1, most + 1, (size, 1), generator=generator)
    marked = torch.arange(n) < count  # which ones does not matter: nothing depends on an item's position
    return marked, (0.5 + torch.rand(size, n, generator=generator)) * marked
