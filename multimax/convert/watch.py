"""Which modules attend or compute a softmax when the model runs, rather than what their code could do."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from multimax.convert.intercept import ANSWERS, SOFTMAX

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


def watch(model: nn.Module, inputs: Inputs) -> dict[str, set[str]]:
    """What the innermost modules, by path, called: torch's "attention", "softmax", or neither.

    The model runs once, in evaluation and without gradients, and is left as it was.

    Raises:
        TypeError, ValueError: ``inputs`` are not inputs, or the model does not take them.
    """
    is_mapping = isinstance(inputs, Mapping)
    if not isinstance(inputs, Tensor | tuple | Mapping) or (is_mapping and not all(isinstance(k, str) for k in inputs)):
        raise TypeError(f"inputs must be a tensor, a tuple or a mapping of keywords, got {type(inputs).__name__}")
    seen: dict[str, set[str]] = defaultdict(set)
    running: list[str] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if func in ANSWERS:
                seen[running[-1]].add("attention")
            elif func in SOFTMAX:
                seen[running[-1]].add("softmax")
            return func(*args, **kwargs or {})

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            running.append(path)
            seen[path] |= set()

        return hook

    def leave(*_: Any) -> None:
        running.pop()

    hooks = []
    training = [module for module in model.modules() if module.training]
    for path, module in model.named_modules():
        if isinstance(module, nn.Softmax):
            continue  # it counts towards the module around it
        hooks.append(module.register_forward_pre_hook(enter(path), prepend=True))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    keywords: Any = inputs if is_mapping else {}
    arguments: Any = () if is_mapping else inputs if isinstance(inputs, tuple) else (inputs,)
    try:
        with torch.random.fork_rng(), torch.no_grad(), Watch():
            model.eval()(*arguments, **keywords)
    except Exception as error:
        raise ValueError(f"{type(model).__name__} does not run with these inputs: {in_a_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return dict(seen)


def in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
