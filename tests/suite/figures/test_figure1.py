"""Figure 1's drawing; its points, the fit and the front are in tests/suite/measures/test_three_scores.py."""

import torch

from multimax.suite.figures.figure1 import plane_of_simplex


def test_the_simplex_keeps_distances():
    weights = torch.distributions.Dirichlet(torch.ones(3, dtype=torch.float64)).sample((20,))
    flat = torch.pdist(plane_of_simplex(weights))
    torch.testing.assert_close(flat, torch.pdist(weights) / 2**0.5)
