"""A wheel holds what it should, and trains in an empty folder without a compiler."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from multimax.kernels.cpu import build
from multimax.suite.engine import provenance

ROOT = Path(__file__).parents[1]


def make_wheel(folder, **environment):
    """Build from a copy, so that nothing is left behind in the clone; return the wheel."""
    source = folder / "source"
    kept = ["configs", "multimax", "hydra_plugins", "pyproject.toml", "setup.py", "README.md", "LICENSE"]
    source.mkdir()
    subprocess.run(["cp", "-r", *(ROOT / name for name in kept), source], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", folder, source]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_a_wheel_carries_what_a_clone_has(tmp_path):
    names = set(zipfile.ZipFile(wheel := make_wheel(tmp_path)).namelist())
    assert wheel.name.endswith("-py3-none-any.whl")
    for folder in ("multimax", "hydra_plugins"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert {str(path.relative_to(ROOT)) for path in files} <= names
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"multimax/suite/{name}" for name in configs} <= names
    assert not [name for name in names if name.startswith(("tests", "configs"))]


@pytest.mark.slow
def test_a_wheel_with_kernels_trains_without_a_compiler(tmp_path):
    wheel = make_wheel(tmp_path, MULTIMAX_WHEEL_KERNELS="1")
    assert wheel.name.startswith("multimax-")
    assert "-py3-none-linux_" in wheel.name
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", installed, wheel]
    subprocess.run(pip, check=True)
    assert not (installed / "multimax" / provenance.REVISION).exists(), "the copy is in no repository"
    (compiled,) = (installed / build.SHIPPED.relative_to(ROOT),)
    assert len(list(compiled.iterdir())) >= 1
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {"PATH": str(empty), "PYTHONPATH": str(installed), "HOME": str(empty), "MULTIMAX_KERNELS": "require"}
    train = [sys.executable, installed / "bin" / "multimax-train", "task=deit", "training.epochs=1"]
    subprocess.run(train, cwd=empty, env=environment, check=True)
    (summary,) = empty.glob("runs/*/summary.json")
    assert json.loads(summary.read_text())["metrics"]["top1"] > 0
    (started,) = (json.loads(line) for line in (summary.parent / "starts.jsonl").read_text().splitlines())
    assert started["command"] == "multimax-train task=deit training.epochs=1"
