"""Tests that take ``make`` run for every registered function, with the options below and on both paths."""

import itertools
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from function_kinds import WITH_KERNEL

from multimax import kernels, reweight

HEADS = 3

VARIANTS = {
    "entmax": [{}, {"per_head": False}, {"alpha": 1.0}, {"alpha": 1.01}, {"alpha": 1.25}, {"alpha": 2.0}],
    "evsoftmax": [{}, {"epsilon": 1e-6}],
    "normmax": [{}, {"alpha": 1.5}],
    "stieltjes": [{}, {"q": 1.0}],
    "topk_softmax": [{"k": 3}],
    "multimax": [
        {},
        {"order": 1},
        {"order": "second_only"},
        {"shared_ranges": True},
        {"per_head": True},
        {"per_head": True, "shared_ranges": True},
        {"init": "zero"},
        {"order": 3},
    ],
    "softmax": [{}, *({"modulator": name} for name in reweight.MODULATORS)],
    "entmax15": [{}, {"modulator": {"name": "seglu", "per_head": True}}],
    "sigmoid": [{}, {"modulator": {"name": "softcap", "cap": 2.0}}],
}


def module(name: str, options: dict, num_heads: int | None = HEADS) -> reweight.Reweighting:
    """A module with random parameters, large enough to matter, and the same for the same arguments."""
    made = reweight.create(name, num_heads=num_heads, **options)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return made


@pytest.fixture(autouse=True)
def _path(request: pytest.FixtureRequest) -> Iterator[None]:
    """Require the kernels, or use tensor operations only."""
    with kernels.use(getattr(request, "param", "require")):
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "make" not in metafunc.fixturenames:
        return
    cases, ids = [], []
    for name in reweight.available():
        for options in VARIANTS.get(name, [{}]):
            for path in ("require", "eager") if name in WITH_KERNEL and name != "softmax" else ("eager",):
                cases.append((partial(module, name, options), path))
                ids.append("-".join([name, *map(str, itertools.chain(*options.items())), path]))
    metafunc.parametrize(("make", "_path"), cases, ids=ids, indirect=["_path"])
