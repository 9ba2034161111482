"""A site: one place in a model where a reweighting acts, as in configurations, ``{"name": "multimax", "order": 1}``."""

from collections.abc import Mapping
from typing import Any

import torch

from multimax import reweight
from multimax.reweight import Reweighting

Site = dict[str, Any]
"""``{"name": registered name, **options}``."""


def create_site(site: Site, num_heads: int | None = None) -> Reweighting:
    """Build the reweighting of one site, and leave torch's generator as it was.

    So a model's other parameters start from the same numbers with any reweighting, and runs with the same seed differ
    only in their reweighting.

    Raises:
        TypeError, ValueError: ``site`` is not a site; or as for ``reweight.create``.
    """
    if not isinstance(site, Mapping) or "name" not in site or not all(isinstance(option, str) for option in site):
        raise TypeError(f'a reweighting is configured as {{"name": NAME, "OPTION": value}}, got {site!r}')
    if "num_heads" in site:
        raise TypeError("num_heads is no option of a reweighting: the model around it has it")
    options = dict(site)
    with torch.random.fork_rng(devices=[]):
        return reweight.create(options.pop("name"), num_heads=num_heads, **options)
