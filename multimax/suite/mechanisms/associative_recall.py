"""Recall what was stored several times under a symbol: all matches count equally, and nothing else counts.

    target = mean of content_i over the items i whose symbol is the query's

An item is [symbol, content], the symbol one-hot, the content normal; the first item of a row is the query, whose
content is zero. All matches score the same, so different scores never need equal weights: the weights only have to drop
the rest, which is harder in longer rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimax.reweight import Reweighting
from multimax.suite.mechanisms.marked_mean import CONTENT, MeanOfContents
from multimax.suite.mechanisms.problem import Batch

SYMBOLS = 16
WIDTH = 32
MOST_MATCHES = 4


class AssociativeRecall(nn.Module):
    """Attention of the query over the items [batch, 1 + n, SYMBOLS + CONTENT]: [batch, CONTENT]."""

    def __init__(self, reweight: Reweighting):
        super().__init__()
        self.query, self.key = nn.Linear(SYMBOLS, WIDTH), nn.Linear(SYMBOLS, WIDTH)
        self.reweight = reweight
        self.value = nn.Linear(CONTENT, CONTENT)

    def forward(self, items: Tensor) -> Tensor:
        symbols, content = items.split([SYMBOLS, CONTENT], -1)
        query, keys = self.query(symbols[:, :1]), self.key(symbols[:, 1:])
        weights = self.reweight((keys * query).sum(-1) * WIDTH**-0.5)
        return self.value((weights.unsqueeze(-2) @ content[:, 1:]).squeeze(-2))


class AssociativeRecallProblem(MeanOfContents):
    name = "associative_recall"
    judge = "error@64"
    train_lengths = range(16, 65)
    test_lengths = (64, 256, 1024)
    batch_size, test_rows = 64, 1024
    steps = 500

    def model(self, variant: str, create: Callable[[], Reweighting]) -> nn.Module:
        return AssociativeRecall(create())

    def batch(self, size: int, n: int, generator: torch.Generator) -> Batch:
        wanted = torch.randint(SYMBOLS, (size, 1), generator=generator)
        count = torch.randint(1, MOST_MATCHES + 1, (size, 1), generator=generator)
        matches = torch.arange(n) < count  # which ones does not matter: nothing depends on an item's position
        others = (wanted + torch.randint(1, SYMBOLS, (size, n), generator=generator)) % SYMBOLS
        symbols = F.one_hot(torch.cat([wanted, wanted.where(matches, others)], 1), SYMBOLS).float()
        content = torch.randn(size, n, CONTENT, generator=generator)
        target = (content * matches.unsqueeze(-1)).sum(-2) / count
        return torch.cat([symbols, F.pad(content, (0, 0, 1, 0))], -1), target
