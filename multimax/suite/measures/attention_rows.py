"""Measures of rows of attention weights: sparsity, multi-modality, entropy, support, Gini index."""

import torch
from torch import Tensor

from multimax.suite.measures.sparsity import multi_modality, sparsity

MEASURES = ("sparsity", "multi_modality", "entropy", "support", "gini", "mass_below")


def centred(scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores minus the mean of the row's live scores, float32, and the mask, bool; both [..., n].

    The threshold 0 then separates relevant from irrelevant scores at the row's own mean, since no single number would
    suit every layer.
    """
    scores = scores.float()
    live = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    scores = scores.where(live, 0)
    return scores - scores.sum(-1, keepdim=True) / live.sum(-1, keepdim=True).clamp(min=1), live


def row_measures(weights: Tensor, scores: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """``MEASURES`` of each row of weights [..., n] and their scores, each [...], float32; NaN where not defined.

    ``sparsity`` and ``multi_modality`` are those of ``measures.sparsity`` with the row's mean score as the threshold;
    softmax's ``sparsity`` cannot exceed 1/e. ``entropy`` is in nats. ``support`` is the number of nonzero weights.
    ``gini`` is Gini's index, 0 for equal weights and 1 - 1/n for a single one, over live entries (Hurley and Rickard,
    "Comparing Measures of Sparsity", 2009, 0811.4706). ``mass_below`` is the weight of all entries with scores below
    the row's mean. A row without a live entry is NaN throughout.
    """
    weights = weights.float()
    scores, live = centred(scores, mask)
    n = live.sum(-1)
    # Dead entries are zeros and sort to the front, so ranks counted from the end are ranks among live entries.
    from_last = torch.arange(weights.shape[-1] - 0.5, 0, -1, device=weights.device)
    unequal = 1 - 2 * (weights.where(live, 0).sort(-1).values * from_last).sum(-1) / n
    measures = {
        "entropy": torch.special.entr(weights.where(live, 0)).sum(-1),
        "support": (weights.where(live, 0) > 0).sum(-1).float(),
        "gini": unequal,
        "mass_below": weights.where(live & (scores < 0), 0).sum(-1),
    }
    return {
        "sparsity": sparsity(scores, weights, 0.0, mask=live),
        "multi_modality": multi_modality(scores, weights, 0.0, mask=live),
        **{name: values.where(n > 0, torch.nan) for name, values in measures.items()},
    }
