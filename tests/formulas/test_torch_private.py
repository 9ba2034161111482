"""Private parts of torch are used in one file only, and the wrappers there do what their names say."""

import re

import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from multimax.formulas import torch_private

PRIVATE = re.compile(r"\btorch(\.\w+)*\._[a-zA-Z]\w*")


def test_only_one_file_of_the_library_uses_them(root):
    library = root / "multimax"
    sources = [path for path in library.rglob("*.py") if not path.is_relative_to(library / "suite")]
    assert {path.name for path in sources if PRIVATE.search(path.read_text())} == {"torch_private.py"}


def test_transforms_and_forward_mode_are_seen():
    seen = []

    def look(x):
        seen.append(torch_private.is_transformed())
        return x.sum()

    x = torch.ones(3)
    look(x)
    torch.func.vmap(look)(x[None])
    torch.func.grad(look)(x)
    with forward_ad.dual_level():
        look(x)
    look(x)
    assert seen == [False, True, True, True, False]


def test_derivatives_are_counted():
    seen = []

    def look(x):
        seen.append(torch_private.derivatives_under_way())
        return (x**3).sum()

    x = torch.ones(3)
    look(x)
    torch.func.vmap(look)(x[None])
    torch.func.jvp(torch.func.vmap(look), (x[None],), (x[None],))
    torch.func.hessian(look)(x)
    torch.func.jacfwd(torch.func.hessian(look))(x)
    with forward_ad.dual_level():
        torch.func.grad(look)(forward_ad.make_dual(x, x))
    assert seen == [0, 0, 1, 2, 3, 2]


def test_dispatch_modes_are_seen():
    assert not torch_private.is_watched()
    with FlopCounterMode(display=False):
        assert torch_private.is_watched()


def test_below_autograd_there_is_no_graph():
    x = torch.ones(3, requires_grad=True)
    with torch_private.below_autograd():
        assert torch.ops.aten.mul.Tensor(x, x).grad_fn is None
    assert (x * x).grad_fn is not None


def test_the_backward_of_softmax_can_be_written_in_place():
    weights, grad = torch.randn(3, 5).softmax(-1), torch.randn(3, 5)
    found = torch.empty(3, 5)
    torch_private.softmax_backward(grad, weights, -1, weights.dtype, grad_input=found)
    torch.testing.assert_close(found, weights * (grad - (weights * grad).sum(-1, keepdim=True)))
