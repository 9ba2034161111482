"""The layers of the project import downwards only; the library needs torch alone."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

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


def part(module: str) -> str:
    """What a module is part of: multimax.PART, or multimax.suite.PART."""
    return ".".join(module.split(".")[: 3 if module.startswith("multimax.suite") else 2])


def imports_of_parts(root) -> dict[str, set[str]]:
    """For each part of the package the other parts that it imports, those within functions as well."""
    result: dict[str, set[str]] = {}
    for path in (root / "multimax").rglob("*.py"):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found = result.setdefault(part(module), set())
        for node in ast.walk(ast.parse(path.read_text())):
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{item.name}" for item in node.names]
            found |= {part(name) for name in names if name.startswith("multimax.")}
        found.discard(part(module))
    return {name: found & result.keys() for name, found in result.items()}


def test_imports_go_one_way(root):
    """No part of the package imports one that imports it, by whatever way around."""
    order = list(TopologicalSorter(imports_of_parts(root)).static_order())  # raises CycleError
    assert order.index("multimax.suite.measures") < order.index("multimax.suite.figures")
    assert order.index("multimax.suite.figures") < order.index("multimax.suite.report")


def test_the_library_knows_nothing_of_the_suite(root):
    for name, found in imports_of_parts(root).items():
        if not name.startswith("multimax.suite"):
            assert not {other for other in found if other.startswith("multimax.suite")}, name
