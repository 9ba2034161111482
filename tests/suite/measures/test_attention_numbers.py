"""What is kept about a run's attention and its modulators."""

import torch

from multimax.reweight import MultiMax, seglu
from multimax.suite.measures.attention_numbers import curves


def test_curves_are_seglus_for_each_head():
    module, x = MultiMax(per_head=True, num_heads=3), torch.linspace(-2, 2, 9)
    with torch.no_grad():
        module.ts.normal_(generator=torch.Generator().manual_seed(0))
    for head, curve in enumerate(curves(module, x)):
        part = slice(4 * head, 4 * head + 4)
        torch.testing.assert_close(curve, seglu(x, module.ranges[part], module.ts[part]).detach())
    assert curves(MultiMax(), x).shape == (1, 9)
