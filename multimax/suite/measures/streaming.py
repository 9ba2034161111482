"""Streaming statistics of attention over a data set: means for each layer and head, and histograms."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from multimax.suite.measures.attention_maps import observe_attention
from multimax.suite.measures.attention_rows import MEASURES, row_measures

MIDDLE = 0.999
SCORE_EDGES = torch.linspace(-30, 30, 601)
WEIGHT_EDGES = torch.linspace(-8, 0, 41)  # of log10; smaller weights and zeros are counted separately


class AttentionSite:
    """Accumulated statistics of one attention. ``sums`` and ``rows`` are float64 [measures, heads], ordered as
    MEASURES.

    ``scores`` and ``weights`` are histograms of the live entries over ``SCORE_EDGES`` and ``WEIGHT_EDGES``; the
    outermost bins of scores include everything beyond. ``tiny`` counts the weights below the lowest edge, zeros too.
    """

    def __init__(self, heads: int):
        self.sums, self.rows = torch.zeros(2, len(MEASURES), heads, dtype=torch.float64)
        self.scores = torch.zeros(len(SCORE_EDGES) - 1, dtype=torch.float64)
        self.weights = torch.zeros(len(WEIGHT_EDGES) - 1, dtype=torch.float64)
        self.tiny = 0.0

    @property
    def means(self) -> Tensor:
        """Means [measures, heads]; NaN where a measure was defined for no row."""
        return self.sums / self.rows

    def middle(self) -> tuple[float, float]:
        """The central interval that holds ``MIDDLE`` of the scores, rounded outwards to bin edges."""
        up_to = self.scores.cumsum(0) / self.scores.sum()
        first, last = int((up_to <= (1 - MIDDLE) / 2).sum()), int((up_to < (1 + MIDDLE) / 2).sum())
        return float(SCORE_EDGES[first]), float(SCORE_EDGES[last + 1])

    def add(self, weights: Tensor, scores: Tensor, mask: Tensor | None) -> None:
        values = torch.stack([measure.double() for measure in row_measures(weights, scores, mask).values()])
        by_head = values.transpose(1, 2).flatten(2).cpu()  # [measures, heads, batch * queries]
        self.sums += by_head.nansum(-1)
        self.rows += by_head.isfinite().sum(-1)
        live = torch.ones_like(weights, dtype=torch.bool) if mask is None else mask.expand_as(weights)
        logarithms = weights[live].float().log10().cpu()
        inside = logarithms >= WEIGHT_EDGES[0]
        self.weights += count(logarithms[inside], WEIGHT_EDGES)
        self.tiny += float((~inside).sum())
        self.scores += count(scores[live].float().cpu(), SCORE_EDGES)


def count(values: Tensor, edges: Tensor) -> Tensor:
    """Histogram of ``values``; those beyond the outermost edges count in the outermost bins."""
    return torch.bincount(torch.bucketize(values, edges[1:-1]), minlength=len(edges) - 1).double()


@contextmanager
def attention_statistics(model: nn.Module) -> Iterator[dict[str, AttentionSite]]:
    """Statistics of every forward of ``model`` within the context, by the name of the attention's submodule."""
    sites: dict[str, AttentionSite] = {}

    def observe(name: str, weights: Tensor, scores: Tensor, mask: Tensor | None) -> None:
        if name not in sites:
            sites[name] = AttentionSite(heads=weights.shape[1])
        sites[name].add(weights, scores, mask)

    with observe_attention(model, observe):
        yield sites
