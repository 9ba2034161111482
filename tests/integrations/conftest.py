"""Import fairseq, and undo its side effect.

fairseq registers a configuration called "config", and groups called "model" and "task", in Hydra's process-wide store.
Tests that compose our configuration may run in the same process.
"""

from contextlib import suppress
from copy import deepcopy

from hydra.core.config_store import ConfigStore

store = ConfigStore.instance()
before = deepcopy(store.repo)
with suppress(ImportError):
    import multimax.integrations.fairseq.training  # noqa: F401
store.repo = before
