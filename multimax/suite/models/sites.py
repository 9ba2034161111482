"""The sites of a model at which a reweighting acts."""

from typing import Any

import torch
from torch import nn

from multimax import reweight
from multimax.reweight import Reweighting

Site = dict[str, Any]
"""``{"name": registered name, **options}``: what stands at one site, as written in a configuration."""


def create_site(site: Site, num_heads: int | None = None) -> Reweighting:
    """Build the reweighting of one site, leaving torch's generator as it was.

    All other parameters of a model then start from the same numbers whichever reweighting it has, so that runs that
    share a seed are paired and their difference is the reweighting's.
    """
    options = dict(site)
    with torch.random.fork_rng(devices=[]):
        return reweight.create(options.pop("name"), num_heads=num_heads, **options)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Number of trainable parameters: ``total``, and of it those of reweightings in ``attention`` and ``output``.

    The output site is the submodule called ``output`` at the top of the model; every other reweighting is attention.
    """
    counts = {"total": sum(p.numel() for p in model.parameters() if p.requires_grad), "attention": 0, "output": 0}
    for name, module in model.named_modules():
        if isinstance(module, Reweighting):
            counts["output" if name == "output" else "attention"] += sum(p.numel() for p in module.parameters())
    return counts
