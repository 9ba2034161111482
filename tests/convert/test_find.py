"""Attention is found in the code of modules, however it is written, and what cannot be converted is named."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import multimax
from multimax.convert.calls import MASK_FLOOR
from multimax.convert.find import find


def attend(x):
    return F.scaled_dot_product_attention(x, x, x)


def logged(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


class Plain(nn.Module):
    def forward(self, x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


class Imported(nn.Module):
    def forward(self, x):
        return scaled_dot_product_attention(x, x, x)


class ByFunction(nn.Module):
    def forward(self, x):
        return attend(x)


class ByMethod(nn.Module):
    def forward(self, x):
        return self._attend(x)

    def _attend(self, x):
        return attend(x)


class ByBase(ByMethod):
    def forward(self, x):
        return super().forward(x) + 1


class ByAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.function = functools.partial(attend)

    def forward(self, x):
        return self.function(x)


class Processor:
    """A plain object that is not a module, as in diffusers."""

    def __call__(self, x):
        return self.attend(x)

    def attend(self, x):
        return attend(x)


class ByObject(nn.Module):
    def __init__(self):
        super().__init__()
        self.processor = Processor()

    def forward(self, x):
        return self.processor(x)


class Decorated(nn.Module):
    @logged
    def forward(self, x):
        return attend(x)


class Nested(nn.Module):
    def forward(self, x):
        def inner(y):
            return F.scaled_dot_product_attention(y, y, y)

        return [inner(y) for y in x]


WAYS = [Plain, Imported, ByFunction, ByMethod, ByBase, ByAttribute, ByObject, Decorated, Nested]


@pytest.mark.parametrize("cls", WAYS)
def test_however_it_is_called_it_is_found(cls):
    (site,) = find(nn.Sequential(nn.Linear(2, 2), cls()))
    assert (site.path, site.by, site.obstacle) == ("1", "torch", None)


class OwnSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.softmax = nn.Softmax(-1)

    def forward(self, x):
        return self.softmax(x @ x.mT) @ x


class Overridden(ByMethod):
    """Its base class attends by a call; this class does not make it."""

    def forward(self, x):
        return torch.softmax(x @ x.mT, -1) @ x


class Checkpointed(nn.Module):
    def forward(self, x):
        return checkpoint(attend, x, use_reentrant=False)


class Named(Plain):
    reweight = "something else"


class XFormers(nn.Module):
    def forward(self, x):
        return memory_efficient_attention(x, x, x)  # noqa: F821


def hooked() -> nn.Module:
    module = Plain()
    module.forward = lambda x: x
    return module


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (OwnSoftmax(), "softmax of its own"),
        (Overridden(), "softmax of its own"),
        (Checkpointed(), "checkpoints its own attention"),
        (Named(), "an attribute named reweight"),
        (XFormers(), "attends by xFormers"),
        (hooked(), "its forward was replaced on the instance"),
        (torch.fx.symbolic_trace(Plain()), "it is a graph"),
        (torch.jit.trace(Plain(), torch.zeros(2, 2, 2)), "it is a graph"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_changed_is_named(module, reason):
    (site,) = find(nn.Sequential(module))
    assert reason in site.obstacle


def test_a_model_without_attention_has_none():
    assert find(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.LSTM(2, 2))) == []


class Head(nn.Module):
    def forward(self, x, mask=None):
        return F.scaled_dot_product_attention(x, x, x, mask)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Head()

    def forward(self, x, live):
        return self.attn(x, self.mask(live))


def filled(live):
    return torch.full(live.shape, -100).where(~live, 0).float()


FILLED = {
    "masked_fill": lambda self, live: torch.zeros(live.shape).masked_fill(~live, -100.0),
    "an int": lambda self, live: torch.zeros(live.shape).masked_fill_(~live, -100),
    "where": lambda self, live: torch.where(live, 0.0, -100.0),
    "full": lambda self, live: torch.full(live.shape, -100.0) * ~live,
    "full_like": lambda self, live: torch.full_like(live, -100, dtype=torch.float32) * ~live,
    "new_full": lambda self, live: live.float().new_full(live.shape, -100) * ~live,
    "fill_": lambda self, live: torch.zeros(live.shape).fill_(-100) * ~live,
    "a function": lambda self, live: filled(live),
}


@pytest.mark.parametrize("way", FILLED)
def test_the_number_that_masks_are_filled_with_is_read_as_well(way):
    """However the fill is written. Hidden keys get no weight, although SegLU would lift their scores."""
    model = type("Shifted", (Masked,), {"mask": FILLED[way]})()
    assert find(model)[0].attributes == {"mask_floor": -50.0}
    multimax.convert(model, "multimax")
    nn.init.constant_(model.attn.reweight.ts, 0.1)
    x, live = torch.randn(2, 5, 4), torch.rand(5, 5) > 0.5
    torch.testing.assert_close(model(x, live), multimax.attention(x, x, x, model.attn.reweight, live))


def test_without_such_a_number_the_limit_is_as_low_as_masks_are():
    assert find(nn.Sequential(Head()))[0].attributes == {}
    assert MASK_FLOOR < -100


class Hidden(nn.Module):
    """Its code does not show what it calls."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return globals()[self.name](x)


def own_softmax(x):
    return torch.softmax(x, -1)


class Either(nn.Module):
    def __init__(self, fast):
        super().__init__()
        self.fast = fast

    def forward(self, x):
        return attend(x) if self.fast else (x @ x.mT).softmax(-1) @ x


def test_with_inputs_it_is_seen_as_well():
    model = nn.Sequential(Hidden("attend"), Hidden("own_softmax"), Either(True), Either(False), nn.Linear(4, 4)).train()
    assert [site.path for site in find(model)] == ["2", "3"]
    seen = {site.path: (site.by, site.obstacle) for site in find(model, torch.randn(2, 3, 4))}
    own = ("", "it takes a softmax of its own")
    assert seen == {"0": ("torch", None), "1": own, "2": ("torch", None), "3": own}
    assert all(module.training and not module._forward_hooks for module in model.modules())
