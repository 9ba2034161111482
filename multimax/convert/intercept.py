"""Modules whose calls to torch's attention are answered by their own reweighting, and how a module becomes one.

The module's class is replaced by a subclass of it with the same name. So the module can be copied, pickled, compiled
and replicated by DataParallel like any other, and ``forward`` works in any thread, even when checkpointing runs it
again.
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
    """What is added to the class of a converted module.

    Attributes:
        reweight: the function that replaces softmax.
        mask_floor: the highest number that hides an entry in an additive mask.
        takes_scores: whether calls to softmax itself, on masked scores, are answered too.
    """

    reweight: Reweighting
    mask_floor: float = MASK_FLOOR
    takes_scores: bool = False
    _stock: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Pickle cannot find this class by name, but it can find the one it was made from.
        state: Any = super().__reduce_ex__(protocol)[2:]
        return _unbuilt, (self._stock,), *state


class Interception(TorchFunctionMode):
    """A context in which calls to torch's functions come here."""

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
    """The class that a module of class ``stock`` has once it is converted."""

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
