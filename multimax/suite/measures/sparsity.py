"""How multi-modal and how sparse weights are, row by row.

Definitions 3.2 and 3.3 of Zhou, Fritz, Keuper, "MultiMax: Sparse and Multi-Modal Attention Learning", ICML 2024, arXiv
2406.01189, with the conventions of its Figure 1. A threshold eps on the scores x separates relevant from irrelevant:

    M = 1 - mean over relevant n other than the maximum of (p_max - p_n)
    S = mean over irrelevant l of exp(-p_l / s)

where s is the smallest softmax probability of the row's scores, so softmax's own smallest weight counts e^-1. Both are
1 at best: all relevant entries have the same weight; no irrelevant entry has any. If the maximum is tied, one copy of
it is left out of M and the others count.
"""

import math

import torch
from torch import Tensor


def multi_modality(scores: Tensor, weights: Tensor, eps: float, mask: Tensor | None = None) -> Tensor:
    """M of each row; NaN, which ``nanmean`` skips, if nothing but the maximum exceeds ``eps``.

    Args:
        scores: what the weights were made from, floating point [..., n].
        weights: [..., n].
        eps: the threshold; entries above it are relevant.
        mask: bool, broadcastable to ``scores``, True where an entry is live; None: all are.

    Returns:
        [...], float32 or the scores' wider dtype.
    """
    x, p, live = _prepare(scores, weights, mask)
    relevant = live & (x > eps)
    largest = p.amax(-1)
    # The maximum is its own neighbour at distance 0, so leaving one copy out only changes the count.
    others = relevant.sum(-1) - 1
    distance = (largest.unsqueeze(-1) - p).where(relevant, 0).sum(-1)
    return torch.where(others > 0, 1 - distance / others, math.nan)


def sparsity(scores: Tensor, weights: Tensor, eps: float, mask: Tensor | None = None) -> Tensor:
    """S of each row; NaN, which ``nanmean`` skips, if no entry is below ``eps``.

    Entries below ``eps`` are irrelevant; otherwise like ``multi_modality``.
    """
    x, p, live = _prepare(scores, weights, mask)
    irrelevant = live & (x < eps)
    log_softmax = x - x.where(live, -math.inf).logsumexp(-1, keepdim=True)
    log_reference = log_softmax.where(live, math.inf).amin(-1, keepdim=True)
    # In logarithms, because the smallest probability of a long row may be too small for a float.
    closeness = torch.exp(-torch.exp(p.log() - log_reference))
    return closeness.where(irrelevant, 0).sum(-1) / irrelevant.sum(-1)


def _prepare(scores: Tensor, weights: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(scores.dtype, torch.float32)
    live = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    return scores.to(dtype), weights.to(dtype), live
