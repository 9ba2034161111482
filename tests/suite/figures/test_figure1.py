"""The drawing of Figure 1. tests/suite/measures/test_three_scores.py tests its points, the fit and the front."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from multimax.suite.figures.figure1 import figure1, plane_of_simplex
from multimax.suite.figures.figure2 import figure2
from multimax.suite.figures.files import figure_files
from multimax.suite.measures.three_scores import fit_multimax
from multimax.suite.report.claims import read_claims
from multimax.suite.report.outputs import digest


def test_the_simplex_keeps_distances():
    weights = torch.distributions.Dirichlet(torch.ones(3, dtype=torch.float64)).sample((20,))
    flat = torch.pdist(plane_of_simplex(weights))
    torch.testing.assert_close(flat, torch.pdist(weights) / 2**0.5)


def digests(claims):
    points = read_claims(claims).figure1
    multimax = fit_multimax(points["k"], *points["multimax_weights"])
    drawn = figure1(multimax, points["k"], points["multi_modality"]), figure2()
    return [digest(content) for figure in drawn for content in figure_files(*figure).values()]


def test_a_processor_without_vector_units_draws_the_same_bytes(root):
    """Such a processor's exponentials differ in the last digit, and its fit in the ninth."""
    claims = root / "results" / "claims.yaml"
    code = f"import pathlib, test_figure1 as t; print(*t.digests(pathlib.Path({str(claims)!r})))"
    plain = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    there = subprocess.run([sys.executable, "-c", code], env=plain, cwd=Path(__file__).parent, capture_output=True)
    assert there.stdout.decode().split() == digests(claims), there.stderr.decode()
