"""Modules whose calls of torch's attention are answered by a reweighting of their own, and how a module becomes one.

A module gets a class made for it, a subclass of the one it had, under the same name. So copies, pickles, replicas of
DataParallel and compiled graphs are made as of any module, and ``forward`` works in whichever thread or second run of
a checkpoint calls it.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from multimax.convert.calls import MASK_FLOOR, dot_product_attention, multi_head_attention, softmax_of_scores
from multimax.reweight import Reweighting

ANSWERS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.scaled_dot_product_attention: dot_product_attention,
    F.multi_head_attention_forward: multi_head_attention,
}
SOFTMAX = (F.softmax, torch.softmax, torch.Tensor.softmax)


class Intercepted(nn.Module):
    """What a converted module is besides what it was.

    Attributes:
        reweight: the function in the place of softmax.
        mask_floor: additive masks are dead at and below it.
        takes_scores: whether softmax itself is answered, of scores that were masked.
    """

    reweight: Reweighting
    mask_floor: float = MASK_FLOOR
    takes_scores: bool = False
    _stock: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # This class has no name to be found by; the one it was made from has.
        state: Any = super().__reduce_ex__(protocol)[2:]
        return _unbuilt, (self._stock,), *state


class Interception(TorchFunctionMode):
    """While it is entered, torch's functions are asked for here."""

    def __init__(self, module: Intercepted) -> None:
        super().__init__()
        self.module = module
        self.answered = self.missed = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        answer = ANSWERS.get(func)
        if func in SOFTMAX:
            self.missed = True
            answer = softmax_of_scores if self.module.takes_scores and func is F.softmax else None
        if answer is None:
            return func(*args, **kwargs)
        self.answered = True
        return answer(self.module.reweight, self.module.mask_floor, *args, **kwargs)


@functools.cache
def intercepted(stock: Any) -> type[Intercepted]:
    """The class of a module of class ``stock`` once it is converted."""

    @functools.wraps(stock.forward)
    def forward(self: Intercepted, *args: Any, **kwargs: Any) -> Any:
        interception = Interception(self)
        with interception:
            output = stock.forward(self, *args, **kwargs)
        if interception.missed and not interception.answered:
            raise RuntimeError(
                f"{stock.__name__} was converted to {type(self.reweight).__name__}, but took a softmax of its own in "
                "this call; leave it on F.scaled_dot_product_attention, or leave it out with where="
            )
        return output

    names = {"__module__": stock.__module__, "__qualname__": stock.__qualname__, "__doc__": stock.__doc__}
    return type(stock.__name__, (Intercepted, stock), {**names, "_stock": stock, "forward": forward})


def _unbuilt(stock: Any) -> Intercepted:
    cls = intercepted(stock)
    return cls.__new__(cls)
