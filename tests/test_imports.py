"""Layers import only what is below them, the library needs nothing but torch, and its public names stay the same."""

import ast
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

import multimax
from multimax import distributions, reweight

# A part imports nothing that stands to its right in a chain. Parts joined by "|" may import one another, but not in
# a circle.
CHAINS = [
    "formulas kernels reweight attention|output_layer compat|convert|integrations|suite",
    "suite.errors suite.data|suite.models suite.tasks|suite.runs suite.engine suite.cli|suite.sweep",
    "suite.measures suite.figures suite.report",
]


def imported(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "module", ["multimax.attention", "multimax.convert", "multimax.compat.entmax", "multimax.suite.measures.sparsity"]
)
def test_the_library_needs_torch_alone(module):
    allowed = imported("torch") | {"multimax"} | sys.stdlib_module_names
    assert imported(module) <= allowed


@pytest.mark.parametrize("module", ["multimax.suite.models.deit", "multimax.suite.data.loading"])
def test_nothing_below_the_tasks_knows_hydra_or_wandb(module):
    """timm imports wandb by itself if it is installed."""
    assert not {"hydra", "omegaconf", "wandb"} & (imported(module) - imported("timm"))


def part(module: str) -> str:
    """The part that a module belongs to: multimax.PART, or multimax.suite.PART."""
    return ".".join(module.split(".")[: 3 if module.startswith("multimax.suite") else 2])


def imports_of_parts(root) -> dict[str, set[str]]:
    """For each part of the package, the other parts that it imports, including imports within functions."""
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


def test_no_part_imports_one_that_imports_it(root):
    TopologicalSorter(imports_of_parts(root)).prepare()  # raises CycleError for a cycle of any length


@pytest.mark.parametrize("chain", CHAINS)
def test_imports_go_one_way(chain, root):
    parts = imports_of_parts(root)
    places = [[f"multimax.{name}" for name in place.split("|")] for place in chain.split()]
    for i, place in enumerate(places):
        above = {name for names in places[i + 1 :] for name in names}
        for name in place:
            members = [member for member in parts if is_in(member, name)]
            assert members, f"there is no {name}"
            for member in members:
                assert not {other for other in parts[member] if any(is_in(other, package) for package in above)}, member


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_the_library_knows_nothing_of_the_suite(root):
    for name, found in imports_of_parts(root).items():
        if not name.startswith("multimax.suite"):
            assert not {other for other in found if other.startswith("multimax.suite")}, name


def test_the_public_names():
    """Removing or renaming one breaks somebody's program."""
    assert set(multimax.__all__) == {
        *("__version__", "attention", "attention_weights", "convert", "linear_cross_entropy", "reweight"),
        *("clip_gradients", "is_reweighting", "parameter_groups"),
    }
    assert set(reweight.__all__) == {
        *("softmax", "sparsemax", "entmax15", "entmax", "evsoftmax", "multimax", "seglu"),
        *("sigmoid", "relu", "softmax_plus_one", "softpick", "topk_softmax", "sa_softmax", "normmax", "stieltjes"),
        *("ElasticSoftmax", "ScalableSoftmax", "Sink"),
        *("Modulated", "Modulator", "MODULATORS", "SegLU", "ELU", "SiLU", "SoftCap", "segment"),
        *("Softmax", "Sparsemax", "Entmax15", "Entmax", "EvSoftmax", "MultiMax", "Temperature", "Reweighting"),
        *("available", "create", "get", "options", "register", "traits", "Traits", "row_kernels", "at_the_output"),
    }
    assert set(distributions.__all__) == {"Categorical"}
    for package in (multimax, reweight, distributions):
        assert all(hasattr(package, name) for name in package.__all__)


def test_other_parts_of_the_library_are_there_once_they_are_asked_for():
    code = "import sys, multimax; assert not {'multimax.compat', 'multimax.distributions'} & sys.modules.keys();"
    code += "multimax.distributions.Categorical, multimax.compat.entmax.sparsemax"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'multimax' has no attribute 'distribution'"):
        _ = multimax.distribution


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("softmax", ["scores", "dim", "mask"]),
        ("sparsemax", ["scores", "dim", "mask"]),
        ("entmax15", ["scores", "dim", "mask"]),
        ("entmax", ["scores", "alpha", "dim", "mask"]),
        ("evsoftmax", ["scores", "dim", "mask", "epsilon"]),
        ("multimax", ["scores", "ranges", "ts", "dim", "mask", "order"]),
        ("seglu", ["scores", "ranges", "ts", "order"]),
        ("create", ["name", "num_heads", "modulator", "chosen"]),
        ("register", ["name", "positive", "can_be_zero", "sums_to_one", "needs_length", "row_kernel"]),
    ],
)
def test_the_arguments_of_public_functions(function, arguments):
    assert list(inspect.signature(getattr(reweight, function)).parameters) == arguments


def test_types_are_part_of_what_is_installed(root):
    assert (root / "multimax" / "py.typed").exists()
    assert '"py.typed"' in (root / "pyproject.toml").read_text()


def test_importing_the_library_compiles_nothing_and_starts_no_process():
    starts = ("subprocess.Popen", "os.posix_spawn", "os.fork")
    watch = f"sys.addaudithook(lambda event, _: event in {starts} and sys.exit(event))"
    code = f"import sys, torch; {watch}; import multimax; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
