"""Import fairseq without what it leaves behind.

fairseq registers a configuration called "config", and groups called "model" and "task", with Hydra's process-wide
store; the tests that compose ours may run in this process too.
"""

from contextlib import suppress
from copy import deepcopy

from hydra.core.config_store import ConfigStore

store = ConfigStore.instance()
before = deepcopy(store.repo)
with suppress(ImportError):
    import multimax.integrations.fairseq.training  # noqa: F401
store.repo = before
