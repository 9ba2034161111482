"""The layers of the project import downwards only; the library needs torch alone."""

import subprocess
import sys

import pytest


def imported(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", ["multimax.reweight", "multimax.attention", "multimax.suite.measures.sparsity"])
def test_the_library_needs_torch_alone(module):
    allowed = imported("torch") | {"multimax"} | sys.stdlib_module_names
    assert imported(module) <= allowed


@pytest.mark.parametrize("module", ["multimax.suite.models.deit", "multimax.suite.data.loading"])
def test_nothing_below_the_tasks_knows_hydra_or_wandb(module):
    """Where wandb is installed timm imports it by itself."""
    assert not {"hydra", "omegaconf", "wandb"} & (imported(module) - imported("timm"))
