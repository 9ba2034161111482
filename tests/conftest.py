import os
from pathlib import Path

import pytest
import torch

from multimax.reweight import _registry

# Two test processes on two cores: more threads would only get in each other's way.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _registry_as_it_was():
    """What a test registers is gone after it."""
    before = dict(_registry._REGISTRY)
    yield
    _registry._REGISTRY.clear()
    _registry._REGISTRY.update(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
