"""Multi-modality and sparsity: the points of the paper's Figure 1, and the cases that it leaves open."""

import math

import pytest
import torch

from multimax import reweight
from multimax.suite.measures.sparsity import multi_modality, sparsity

# M at inputs (10, k, -1), measured in the authors' figure
FIGURE_1 = {
    "softmax": {10: 1, 8: 0.238, 6: 0.036, 4: 0.005, 2: 0.001},
    "evsoftmax": {10: 1, 8: 0.238, 6: 0.036, 4: 0, 2: 0},
    "sparsemax": {10: 1, 8: 0, 6: 0, 4: 0, 2: 0},
    "entmax15": {10: 1, 8: 0, 6: 0, 4: 0, 2: 0},
}


@pytest.mark.parametrize("name", FIGURE_1)
@pytest.mark.parametrize("k", [10, 8, 6, 4, 2])
@pytest.mark.parametrize("eps", [-0.9, 1.9])
def test_figure_1(name, k, eps):
    scores = torch.tensor([10.0, k, -1.0])
    weights = reweight.create(name)(scores)
    assert round(multi_modality(scores, weights, eps).item(), 3) == FIGURE_1[name][k]
    assert round(sparsity(scores, weights, eps).item(), 3) == (round(math.exp(-1), 3) if name == "softmax" else 1)


def test_by_hand():
    scores = torch.tensor([[3.0, 2.0, 1.0, -1.0, -2.0], [5.0, 5.0, 5.0, -1.0, -9.0]])
    weights = torch.tensor([[0.5, 0.3, 0.1, 0.1, 0.0], [0.3, 0.3, 0.3, 0.1, 0.0]])
    torch.testing.assert_close(multi_modality(scores, weights, 0.0), torch.tensor([1 - (0.2 + 0.4) / 2, 1.0]))
    expected = (torch.exp(-0.1 / scores.softmax(-1).amin(-1)) + 1) / 2
    torch.testing.assert_close(sparsity(scores, weights, 0.0), expected)


@pytest.mark.parametrize("filling", [math.nan, -100.0, 100.0])
def test_dead_entries_do_not_count(filling):
    scores = torch.randn(4, 6, 9)
    mask = torch.ones(9, dtype=torch.bool)
    mask[6:] = False
    weights = reweight.softmax(scores, mask=mask)
    for measure in (multi_modality, sparsity):
        masked = measure(scores.masked_fill(~mask, filling), weights, 0.1, mask=mask)
        torch.testing.assert_close(masked, measure(scores[..., :6], weights[..., :6], 0.1), equal_nan=True)


def test_rows_without_such_entries_are_undefined():
    scores = torch.tensor([10.0, 3.0, 2.0])
    weights = torch.tensor([1.0, 0.0, 0.0])
    assert multi_modality(scores, weights, 5.0).isnan()
    assert multi_modality(scores, weights, 20.0).isnan()
    assert sparsity(scores, weights, 0.0).isnan()


def test_a_reference_too_small_for_a_float_is_sound():
    scores = torch.tensor([200.0, -1.0])
    assert sparsity(scores, torch.tensor([1.0, 0.0]), 0.0) == 1
    assert sparsity(scores, torch.tensor([0.9, 0.1]), 0.0) == 0
