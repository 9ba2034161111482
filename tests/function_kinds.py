"""One function of each kind, for tests that need not go through all that are registered.

What a model, a kernel or an engine has to do with a function is said by its row kernel, by whether it has a loss and by
whether it has parameters; what it computes is the business of ``tests/reweight``, which goes through all.
"""

import torch

from multimax import reweight
from multimax.attention import BACKENDS, attention
from multimax.reweight._base import may_bypass


def _kind(name: str) -> tuple[type, bool, bool]:
    module = reweight.create(name)
    kernel = module.row_kernel() if may_bypass(module, "row_kernel") else None
    return type(kernel), module.has_loss, module.has_parameters


KINDS = tuple(sorted({_kind(name): name for name in reversed(reweight.available())}.values()))
WITH_KERNEL = tuple(name for name in reweight.available() if _kind(name)[0] is not type(None))


def served(name):
    """The backends that serve a function here, and None, which chooses."""
    query = torch.zeros(1, 1, 8, 16)
    found = []
    for backend in (None, *BACKENDS):
        try:
            attention(query, query, query, reweight.create(name), backend=backend)
        except ValueError:
            continue
        found.append(backend)
    return found
