"""One place of a model at which a reweighting acts, as it is written down: ``{"name": "multimax", "order": 1}``."""

from typing import Any

import torch

from multimax import reweight
from multimax.reweight import Reweighting

Site = dict[str, Any]
"""``{"name": registered name, **options}``."""


def create_site(site: Site, num_heads: int | None = None) -> Reweighting:
    """Build the reweighting of one site, leaving torch's generator as it was.

    All other parameters of a model then start from the same numbers whichever reweighting it has, so that runs that
    share a seed are paired and their difference is the reweighting's.
    """
    options = dict(site)
    with torch.random.fork_rng(devices=[]):
        return reweight.create(options.pop("name"), num_heads=num_heads, **options)
