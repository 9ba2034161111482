"""A model's attention over a data set and its learned modulators, summarised as JSON."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from multimax.reweight import MultiMax
from multimax.suite.measures.attention_rows import MEASURES
from multimax.suite.measures.streaming import SCORE_EDGES, AttentionSite

OUTPUT_RANGE = (-10.0, 10.0)  # range of the output's curve, as the logits it meets are not recorded


def numbers(sites: Mapping[str, AttentionSite], model: nn.Module) -> dict[str, Any]:
    """Summarise the ``attentions`` of a model and the curves of its ``modulators``.

    For each attention: ``means`` of the measures by head, None where undefined; the shares of its ``scores`` in bins of
    0.1 from ``scores_from`` on, and of its ``weights`` in the bins of ``WEIGHT_EDGES``; ``tiny``, the share of weights
    below those. For each modulator: ``scores`` over the central range it met, and ``modulated``, its value there for
    each set of parameters.
    """
    modulators = {
        name.removesuffix(".reweight"): module for name, module in model.named_modules() if isinstance(module, MultiMax)
    }
    curves_of = {}
    for name, module in modulators.items():
        x = torch.linspace(*(sites[name].middle() if name in sites else OUTPUT_RANGE), 101)
        curves_of[name] = {"scores": rounded(x), "modulated": [rounded(y) for y in curves(module, x)]}
    return {"attentions": {name: numbers_of(site) for name, site in sites.items()}, "modulators": curves_of}


def numbers_of(site: AttentionSite) -> dict[str, Any]:
    bins = site.scores.nonzero().flatten()
    first, last = int(bins[0]), int(bins[-1])
    weights = site.weights.sum() + site.tiny
    return {
        "means": {measure: rounded(values) for measure, values in zip(MEASURES, site.means, strict=True)},
        "rows": [int(count) for count in site.rows.amax(0)],
        "middle": rounded(torch.tensor(site.middle())),
        "scores_from": round(float(SCORE_EDGES[first]), 1),
        "scores": rounded(site.scores[first : last + 1] / site.scores.sum()),
        "weights": rounded(site.weights / weights),
        "tiny": rounded(torch.tensor([site.tiny]) / weights)[0],
    }


def rounded(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 6) for value in values.tolist()]


@torch.no_grad()
def curves(module: MultiMax, x: Tensor) -> Tensor:
    """Modulated scores [heads, n] of scores [n]; one row where all heads share their parameters."""
    device = module.ts.device
    return module.modulate(x.to(device).expand(module.num_heads, 1, -1))[:, 0].float().cpu()
