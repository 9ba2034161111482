"""A function's fast paths are taken only where they do the same as calling the module."""

import re
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

import multimax
from multimax import reweight
from multimax.attention import attention, attention_path
from multimax.output_layer import linear_loss
from multimax.reweight import available, create, register, row_kernels, softmax
from multimax.reweight._base import IN_LOSS, may_bypass

LENGTHS = (8, 160)  # below and above the length from which blocks pay


def worked_examples():
    """The classes at the end of docs/kernel.md."""
    names = {"multimax": multimax, "nn": nn, "reweight": reweight, "torch": torch}
    page = (Path(__file__).parents[2] / "docs/kernel.md").read_text()
    for text in re.findall(r"```python\n(.*?)```", page[page.index("## Attention and a loss") :], re.DOTALL):
        exec(text, names)
    return names["Tempered"], names["Fused"]


Tempered, Fused = worked_examples()


def draw(length):
    torch.manual_seed(0)
    return torch.randn(1, 2, length, 16, requires_grad=True)


def hooked(register_hook):
    def change(module, calls):
        register_hook(module)(lambda *_: calls.append(1) and None)

    return change


def replaced(method):
    def change(module, calls):
        before = getattr(module, method)

        def instead(*args, **options):
            calls.append(1)
            return before(*args, **options)

        setattr(module, method, instead)

    return change


def overridden(method):
    """Override ``method`` in a subclass, as a user would, and make an existing module an instance of it."""

    def change(module, calls):
        cls = type(module)

        def instead(self, *args, **options):
            calls.append(1)
            return getattr(cls, method)(self, *args, **options)

        module.__class__ = type(cls.__name__, (cls,), {method: instead})

    return change


CHANGES = {
    "forward hook": hooked(lambda module: module.register_forward_hook),
    "forward pre-hook": hooked(lambda module: module.register_forward_pre_hook),
    "backward hook": hooked(lambda module: module.register_full_backward_hook),
    "backward pre-hook": hooked(lambda module: module.register_full_backward_pre_hook),
    "replaced": replaced("forward"),
    "overridden": overridden("forward"),
    "__call__": overridden("__call__"),
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", available())
def test_attention_calls_a_module_that_somebody_changed(name, change, length):
    module, query, calls = create(name), draw(length), []
    expected = attention(query, query, query, module)
    CHANGES[change](module, calls)
    assert attention_path(query, query, query, module) == "reference"
    output = attention(query, query, query, module)
    output.sum().backward()
    assert calls
    torch.testing.assert_close(output, expected)


@contextmanager
def global_hook(kind, calls):
    handle = getattr(nn.modules.module, f"register_module_{kind}")(lambda *_: calls.append(1) and None)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_global_hooks_are_heard(kind):
    query, module, calls = draw(160), create("multimax"), []
    with global_hook(kind, calls):
        attention(query, query, query, module).sum().backward()
    assert calls
    assert may_bypass(module, "row_kernel")


@pytest.mark.parametrize("name", available())
def test_a_method_patched_in_the_class_is_what_is_called(name):
    query, module = draw(160), create(name)
    with mock.patch.object(type(module), "forward", lambda self, scores, mask=None: torch.zeros_like(scores)):
        assert not attention(query, query, query, module).any()


def test_a_mixin_before_the_class_counts_as_an_override():
    class Sharper:
        def forward(self, scores, mask=None):
            return super().forward(scores * 2, mask)

    sharper = type("SharperSoftmax", (Sharper, type(create("softmax"))), {})()
    assert not may_bypass(sharper, "row_kernel")
    query = draw(8)
    torch.testing.assert_close(
        attention(query, query, query, sharper), attention(query, query, query, create("softmax"), scale=0.5)
    )


def test_a_subclass_that_changes_nothing_keeps_the_fast_path():
    kind = type(create("multimax"))
    assert may_bypass(type("Named", (kind,), {"extra": 1})(), "row_kernel", IN_LOSS)
    assert not may_bypass(lambda scores, mask=None: scores, "row_kernel")


def case(n=6, v=9):
    torch.manual_seed(0)
    hidden, weight = torch.randn(n, 5, requires_grad=True), torch.randn(v, 5, requires_grad=True)
    return hidden, weight, torch.randint(v, (n,))


def test_a_compiled_module_is_called_as_it_is():
    module, (hidden, weight, targets) = create("multimax"), case()
    compiled = torch.compile(module, backend="eager")
    torch.testing.assert_close(
        linear_loss(compiled, hidden, weight, None, targets), linear_loss(module, hidden, weight, None, targets)
    )


@pytest.mark.parametrize("change", [overridden, replaced])
@pytest.mark.parametrize("method", ["loss", "log_weights", "modulate"])
@pytest.mark.parametrize("name", ["softmax", "multimax"])
def test_the_loss_calls_what_somebody_changed(name, method, change):
    module, calls = create(name), []
    hidden, weight, targets = case()
    expected = linear_loss(module, hidden, weight, None, targets)
    change(method)(module, calls)
    torch.testing.assert_close(linear_loss(module, hidden, weight, None, targets), expected)
    assert calls or (name == "softmax" and method == "modulate")  # softmax's loss does not call it


def test_a_loss_of_its_own_leaves_attention_its_fast_path():
    class Smoothed(type(create("multimax"))):
        def loss(self, *args, **options):
            return super().loss(*args, **options | {"label_smoothing": 0.1})

    assert may_bypass(Smoothed(), "row_kernel")
    assert not may_bypass(Smoothed(), "row_kernel", IN_LOSS)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_function_of_the_user_brings_a_row_kernel(length):
    """Attention and the loss give the values and gradients of its forward."""
    module, query = Tempered(), draw(length)
    nn.init.constant_(module.log_rate, 0.7)
    mask = torch.rand(length, length, generator=torch.Generator().manual_seed(1)) > 0.3
    found, expected = (attention(query, query, query, module, mask, backend=b) for b in (None, "reference"))
    torch.testing.assert_close(found, expected)
    leaves = [query, module.log_rate]
    for gradient, right in zip(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-4)
    hidden, weight, targets = case()
    with mock.patch.object(Tempered, "loss", side_effect=AssertionError):
        assert not may_bypass(module, "row_kernel", IN_LOSS)
    found = linear_loss(module, hidden, weight, None, targets)
    torch.testing.assert_close(found, module.loss(hidden @ weight.T, targets))


def test_a_function_of_the_user_brings_a_backend_and_a_loss_without_scores():
    module, query = Fused(), draw(8)
    nn.init.constant_(module.log_rate, 0.7)
    assert attention_path(query, query, query, module) == "reference"  # its own backend does not pay on a CPU
    leaves = [query, module.log_rate]
    found, expected = (attention(query, query, query, module, backend=b) for b in ("scaled queries", "reference"))
    torch.testing.assert_close(found, expected)
    for gradient, right in zip(
        *(torch.autograd.grad(y.square().sum(), leaves) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="it takes no bias"):
        attention(query, query, query, module, bias=torch.zeros(8, 8), backend="scaled queries")
    hidden, weight, targets = case()
    for bias in (None, torch.randn(9)):
        logits = torch.nn.functional.linear(hidden, weight, bias)
        found, expected = linear_loss(module, hidden, weight, bias, targets), module.loss(logits, targets)
        torch.testing.assert_close(found, expected)
        leaves = [hidden, weight, module.log_rate]
        for gradient, right in zip(*(torch.autograd.grad(y, leaves) for y in (found, expected)), strict=True):
            torch.testing.assert_close(gradient, right)


def test_a_registered_function_brings_a_row_kernel(monkeypatch):
    monkeypatch.setattr("multimax.reweight._registry._REGISTRY", {})

    def kernel_of(rate):
        ts = torch.tensor([1 - rate, rate - 1])
        return row_kernels.MultiMax(torch.zeros(2), ts, powers=(1, 1))

    @register("sharpened", can_be_zero=False, row_kernel=kernel_of)
    def sharpened(scores, mask=None, *, rate=1.0):
        return softmax(scores * rate, mask=mask)

    query, module = draw(160), create("sharpened", rate=3.0)
    assert may_bypass(module, "row_kernel", IN_LOSS)
    found, expected = (attention(query, query, query, module, backend=b) for b in (None, "reference"))
    torch.testing.assert_close(found, expected)
    hidden, weight, targets = case()
    torch.testing.assert_close(
        linear_loss(module, hidden, weight, None, targets), module.loss(hidden @ weight.T, targets)
    )


def test_a_loss_without_scores_of_its_own():
    class Zero(type(create("sparsemax"))):
        def linear_loss(self, hidden, weight, bias, targets, **options):
            return hidden.new_zeros(())

    hidden, weight, targets = case()
    assert linear_loss(Zero(), hidden, weight, None, targets) == 0
    below = type("Below", (Zero,), {"loss": type(create("sparsemax")).loss})()
    assert linear_loss(below, hidden, weight, None, targets) == 0  # its loss is the inherited method after all
    below = type("Below", (Zero,), {"loss": lambda self, scores, targets, **options: scores.sum()})()
    torch.testing.assert_close(linear_loss(below, hidden, weight, None, targets), (hidden @ weight.T).sum())
