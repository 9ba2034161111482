"""One function of each kind, for tests that need not cover every registered function.

To a model, a kernel or the engine, functions differ only in their row kernel and in whether they have a loss and
parameters. What each one computes is tested in ``tests/reweight``, which covers all of them.
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
    """The backends that can serve a function on this machine, and None, which lets ``attention`` choose."""
    query = torch.zeros(1, 1, 8, 16)
    found = []
    for backend in (None, *BACKENDS):
        try:
            attention(query, query, query, reweight.create(name), backend=backend)
        except ValueError:
            continue
        found.append(backend)
    return found
