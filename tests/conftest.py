import os
from pathlib import Path

import pytest
import torch

# Without a GPU the Triton kernels run in its interpreter. Triton reads this variable when it is imported, and any
# import below may import it.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from multimax.reweight import _registry

# Two test processes on two cores: more threads would only get in each other's way.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _registry_as_it_was():
    """Undo what a test registered."""
    before = dict(_registry._REGISTRY)
    yield
    _registry._REGISTRY.clear()
    _registry._REGISTRY.update(before)


@pytest.fixture
def small_fresh_graphs(monkeypatch):
    """Compile everything anew, and quickly: graphs unroll the steps of a root search, so allow only a few."""
    monkeypatch.setattr("multimax.formulas.newton.MAX_STEPS", 8)  # enough for the short rows in tests
    torch.compiler.reset()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


def pytest_terminal_summary(terminalreporter):
    """Print what tests recorded as ``faults`` (what they did to runs) and ``lost`` (how many runs lost anything)."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    found = [(report.nodeid, dict(report.user_properties)) for report in reports if report.when == "call"]
    injected = [(name.split("::")[-1], properties) for name, properties in found if "faults" in properties]
    if injected:
        terminalreporter.section("injected faults")
        for name, properties in injected:
            terminalreporter.line(f"{name}: {properties['faults']}; runs that lost anything: {properties['lost']}")
