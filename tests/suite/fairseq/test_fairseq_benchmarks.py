"""The benchmarks against fairseq run at tiny sizes, and check that they agree with it before they measure."""

from itertools import product

import pytest

from tests.benchmark_runs import run

pytest.importorskip("fairseq", reason="the extra 'fairseq' is not installed")


FUNCTIONS = ("softmax", "multimax")
ROWS = {
    "translation": set(product(("training", "beam search"), FUNCTIONS, ("fairseq", "ours"))),
    "language_modeling": set(product(("transformer_xl",), FUNCTIONS, ("plain formula", "ours")))
    | {("transformer_lm", "softmax", way) for way in ("fairseq", "ours")},
}


@pytest.mark.parametrize("name", ROWS)
def test_ours_and_theirs_are_measured(name, tmp_path, monkeypatch):
    rows, _ = run(name, tmp_path, monkeypatch, "--functions", *FUNCTIONS)
    assert {(row["part"], row["function"], row["way"]) for row in rows} == ROWS[name]
