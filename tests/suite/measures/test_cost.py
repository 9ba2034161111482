"""Counted operations agree with counts by hand."""

import torch
from torch import nn

from multimax import reweight
from multimax.suite.measures.cost import matrix_products, operations


class Halves(reweight.Reweighting):
    def forward(self, scores, mask=None):
        return torch.where(scores > 0, scores * 0.5, 0.0) / scores.sum(-1, keepdim=True)


def test_elementwise_operations_and_reductions():
    scores = torch.randn(3, 4, 5)
    assert operations(reweight.create("softmax"), scores) == 5 * 60  # maximum, difference, exp, sum, quotient
    # Comparison, product, sum, quotient; choosing by torch.where is free.
    assert operations(Halves(), scores) == 4 * 60
    first = operations(reweight.create("multimax", order=1), scores)
    both = operations(reweight.create("multimax"), scores)
    # Each hinge: a difference, one clamp for its two bounds, two products, a sum.
    assert both - first == 2 * 60 * 5


def test_matrix_products():
    model = nn.Sequential(nn.Linear(7, 5, bias=False), nn.ReLU(), nn.Linear(5, 3))
    assert matrix_products(model, torch.randn(2, 7)) == 2 * 2 * (7 * 5 + 5 * 3)
