"""torch.compile without a graph break, and torch.export."""

import pytest
import torch
from torch.export import Dim

from multimax import reweight

pytestmark = pytest.mark.usefixtures("small_fresh_graphs")


def check(attend, scores, mask, backend):
    compiled = torch.compile(attend, fullgraph=True, backend=backend)
    incoming = torch.randn_like(scores)
    results = []
    for function in (attend, compiled):
        leaf = scores.clone().requires_grad_()
        weights = function(leaf, mask)
        results.append([weights, *torch.autograd.grad(weights, [leaf, *attend.parameters()], incoming)])
    for eager, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-5, atol=1e-5)


def case():
    mask = torch.rand(2, 1, 5, 9) > 0.3
    mask[0, 0, 0] = False
    return torch.randn(2, 3, 5, 9), mask


def test_no_graph_break(make):
    check(make(), *case(), "aot_eager")


@pytest.mark.parametrize("name", reweight.available())
def test_no_graph_break_without_a_mask(name):
    check(reweight.create(name, num_heads=3), case()[0], None, "aot_eager")


@pytest.mark.parametrize("name", ["multimax", "sparsemax"])
def test_inductor(name):
    check(reweight.create(name, num_heads=3), *case(), "inductor")


def test_export_with_dynamic_shapes(make):
    scores, mask = case()
    sizes = {0: Dim("batch"), 2: Dim("queries"), 3: Dim("keys")}
    exported = torch.export.export(make(), (scores, mask), dynamic_shapes=(sizes, sizes)).module()
    other_scores, other_mask = torch.randn(4, 3, 6, 11), torch.rand(4, 1, 6, 11) > 0.4
    for arguments in ((scores, mask), (other_scores, other_mask)):
        torch.testing.assert_close(exported(*arguments), make()(*arguments))
