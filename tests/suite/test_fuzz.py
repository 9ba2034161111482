"""Fuzzing of command lines, values, runs and data: mistakes end in one line, not a traceback."""

import shutil

import fuzzing
import pytest


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid") / "base"
    fuzzing.prepare(folder)
    return folder


def fuzz(base, tmp_path, seeds) -> None:
    failures = []
    for seed in seeds:
        scratch = tmp_path / f"draw-{seed}"
        found = fuzzing.draw(base, seed, scratch)
        shutil.rmtree(scratch)
        if not found.is_fine:
            failures.append(f"seed {seed}, {found.mutation}: {found.command}, code {found.code}: {found.errors[-300:]}")
    assert not failures, "\n".join(failures)


def test_sixty_draws(base, tmp_path):
    fuzz(base, tmp_path, range(60))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 700, 100))
def test_six_hundred_draws(base, tmp_path, first):
    fuzz(base, tmp_path, range(first, first + 100))
