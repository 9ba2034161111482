"""Figure 1's drawing; its points, the fit and the front are in tests/suite/measures/test_three_scores.py."""

import os
import subprocess
import sys

import torch

from multimax.suite.figures.figure1 import plane_of_simplex


def test_the_simplex_keeps_distances():
    weights = torch.distributions.Dirichlet(torch.ones(3, dtype=torch.float64)).sample((20,))
    flat = torch.pdist(plane_of_simplex(weights))
    torch.testing.assert_close(flat, torch.pdist(weights) / 2**0.5)


DIGESTS = """
import hashlib, sys
from pathlib import Path
from multimax.suite.report.claims import read_claims
from multimax.suite.report.figures import figure1_picture, figure2_picture
claims = Path(sys.argv[1])
for output in (figure1_picture(read_claims(claims).figure1, claims), figure2_picture()):
    print(*(hashlib.sha256(content).hexdigest() for content in output.files.values()))
"""


def test_a_processor_without_vector_units_draws_the_same_bytes(root):
    """Its exponentials differ in the last digit, and the fit in the ninth."""
    command = [sys.executable, "-c", DIGESTS, str(root / "results" / "claims.yaml")]
    drawn = [
        subprocess.run(command, env=os.environ | more, cwd=root, capture_output=True, text=True, check=True).stdout
        for more in ({}, {"ATEN_CPU_CAPABILITY": "default"})
    ]
    assert drawn[0] == drawn[1] != ""
