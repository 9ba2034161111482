"""One site of a model at which a reweighting acts, as in configurations: ``{"name": "multimax", "order": 1}``."""

from typing import Any

import torch

from multimax import reweight
from multimax.reweight import Reweighting

Site = dict[str, Any]
"""``{"name": registered name, **options}``."""


def create_site(site: Site, num_heads: int | None = None) -> Reweighting:
    """Build the reweighting of one site, and leave torch's generator as it was.

    So all other parameters of a model start from the same numbers with any reweighting, and runs with the same seed
    differ by their reweighting only.
    """
    options = dict(site)
    with torch.random.fork_rng(devices=[]):
        return reweight.create(options.pop("name"), num_heads=num_heads, **options)
