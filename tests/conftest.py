import os
from pathlib import Path

import pytest
import torch

# Without a GPU the Triton kernels are interpreted. Triton reads this when it is imported, which any import may do.
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
    """What a test registers is gone after it."""
    before = dict(_registry._REGISTRY)
    yield
    _registry._REGISTRY.clear()
    _registry._REGISTRY.update(before)


@pytest.fixture
def small_fresh_graphs(monkeypatch):
    """What is compiled is compiled anew, and quickly: the steps of a search for a root are unrolled in graphs."""
    monkeypatch.setattr("multimax.formulas.newton.MAX_STEPS", 8)  # the short rows of tests need no more
    torch.compiler.reset()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


def pytest_terminal_summary(terminalreporter):
    """What tests recorded as ``faults`` (what they did to runs) and ``lost`` (how many runs lost anything by it)."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    found = [(report.nodeid, dict(report.user_properties)) for report in reports if report.when == "call"]
    injected = [(name.split("::")[-1], properties) for name, properties in found if "faults" in properties]
    if injected:
        terminalreporter.section("injected faults")
        for name, properties in injected:
            terminalreporter.line(f"{name}: {properties['faults']}; runs that lost anything: {properties['lost']}")
