import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import toy


@pytest.fixture(scope="module")
def cluster():
    if reason := toy.missing():
        pytest.skip(reason)
    cluster = toy.ToyCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def checkout(root, tmp_path_factory) -> Path:
    """A copy of the project, which a test may change."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("multimax", "configs", "hydra_plugins"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "train.py", folder)
    return folder
