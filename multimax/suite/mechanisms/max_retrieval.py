"""Find the class of the item with the largest priority, trained on short rows and tested on long ones.

    target = class of item argmax_i priority_i

After Velickovic et al., "softmax is not enough (for sharp out-of-distribution)", 2024, arXiv 2410.01104: with bounded
scores, a softmax's weights flatten as rows grow, so what was learned at 16 items is lost at hundreds. An item is
[priority, class]: the priority is uniform on [0, 1], the class one of ten, one-hot.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimax.reweight import Reweighting
from multimax.suite.mechanisms.problem import Batch, Generated

CLASSES = 10
WIDTH = 64


class MaxRetrieval(nn.Module):
    """Items [batch, n, 1 + CLASSES] encoded one by one, one learned query over them, a classifier: [batch, CLASSES]."""

    def __init__(self, reweight: Reweighting):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(1 + CLASSES, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.query = nn.Parameter(torch.randn(WIDTH))
        self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.reweight = reweight
        self.classifier = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, items: Tensor) -> Tensor:
        encoded = self.encoder(items)
        weights = self.reweight(self.key(encoded) @ self.query * WIDTH**-0.5)
        return self.classifier((weights.unsqueeze(-2) @ self.value(encoded)).squeeze(-2))


class MaxRetrievalProblem(Generated):
    name = "max_retrieval"
    measures = ("accuracy",)
    judge, better = "accuracy@256", "higher"
    train_lengths = range(4, 17)
    test_lengths = (16, 32, 64, 128, 256, 512, 1024)
    steps = 3000

    def model(self, variant: str, create: Callable[[], Reweighting]) -> nn.Module:
        return MaxRetrieval(create())

    def batch(self, size: int, n: int, generator: torch.Generator) -> Batch:
        priority = torch.rand(size, n, generator=generator)
        classes = torch.randint(CLASSES, (size, n), generator=generator)
        target = classes.gather(1, priority.argmax(1, keepdim=True)).squeeze(1)
        return torch.cat([priority.unsqueeze(-1), F.one_hot(classes, CLASSES).float()], -1), target

    def loss(self, model: nn.Module, items: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(model(items), target)

    def score(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Percentage of rows whose class is found."""
        right = [(output.argmax(-1) == target).float() for output, target in batches]
        return {"accuracy": 100 * torch.cat(right).mean().item()}
