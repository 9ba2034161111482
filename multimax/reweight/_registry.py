"""The functions by name, the built-in ones and the user's alike.

    @reweight.register("squared")
    def squared(scores, mask=None, *, temperature=1.0):     # keyword-only arguments with a default are its options
        ...

From then on ``create("squared", temperature=2.0)`` makes a module of it, and every task takes ``reweight=squared``.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, get_args

from torch import Tensor

from multimax.kernels.row_kernels import RowKernel
from multimax.reweight._base import Reweighting

_REGISTRY: dict[str, type[Reweighting]] = {}

Registered = TypeVar("Registered", bound=Callable[..., Any])


def register(
    name: str, *, positive: bool = False, row_kernel: Callable[..., RowKernel | None] | None = None
) -> Callable[[Registered], Registered]:
    """Decorator that makes a function or a ``Reweighting`` subclass available as ``name``; returns it unchanged.

    Args:
        name: what ``create`` and ``reweight=`` will know it by.
        positive: for a function ``f(scores, mask=None, *, option=default, ...)``: its live weights are above zero, so
            that the negative log-likelihood serves as its loss. A subclass says so in its own attributes.
        row_kernel: for a function: from its options, what ``Reweighting.row_kernel`` returns.

    Raises:
        ValueError: ``name`` is taken.
        TypeError: neither a function nor a subclass of ``Reweighting``, or an option without a default.
    """

    def decorate(definition: Registered) -> Registered:
        if name in _REGISTRY:
            raise ValueError(f"a reweighting named {name!r} is registered already; choose another name")
        if isinstance(definition, type):
            if not issubclass(definition, Reweighting):
                raise TypeError(f"{definition.__name__} must be a function or subclass multimax.reweight.Reweighting")
            module: type[Reweighting] = definition
        else:
            module = _module_of(definition, positive, row_kernel)
        for option in inspect.signature(module).parameters.values():
            if option.kind in (option.VAR_POSITIONAL, option.VAR_KEYWORD) or option.default is option.empty:
                raise TypeError(f"option {option.name!r} of reweighting {name!r} must be named and have a default")
        _REGISTRY[name] = module
        return definition

    return decorate


def _module_of(
    function: Callable[..., Tensor], positive_weights: bool, kernel_of: Callable[..., RowKernel | None] | None
) -> type[Reweighting]:
    class FunctionReweighting(Reweighting):
        positive = has_loss = positive_weights

        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.options = options

        def extra_repr(self) -> str:
            return ", ".join(f"{name}={value}" for name, value in self.options.items())

        def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
            return function(scores, mask, **self.options)

        def row_kernel(self) -> RowKernel | None:
            return None if kernel_of is None else kernel_of(**self.options)

    FunctionReweighting.__name__ = FunctionReweighting.__qualname__ = function.__name__
    FunctionReweighting.__doc__ = function.__doc__
    parameters = list(inspect.signature(function).parameters.values())[2:]
    FunctionReweighting.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return FunctionReweighting


def available() -> tuple[str, ...]:
    """Names of all registered functions, sorted."""
    return tuple(sorted(_REGISTRY))


def get(name: str) -> type[Reweighting]:
    """The module class registered as ``name``: its ``has_loss`` and ``soft_targets`` are known before it is built.

    Raises:
        ValueError: no such name; the message lists the names and the nearest one.
    """
    if name not in _REGISTRY:
        raise ValueError(f"no reweighting is named {name!r}{_nearest(name, available())}")
    return _REGISTRY[name]


def options(name: str) -> dict[str, Any]:
    """The options of a function with their defaults; ``num_heads``, which the place of use knows, is not one of them.

    Raises:
        ValueError: no such name.
    """
    parameters = inspect.signature(get(name)).parameters
    return {option: p.default for option, p in parameters.items() if option != "num_heads"}


def create(name: str, *, num_heads: int | None = None, **chosen: Any) -> Reweighting:
    """Build the module registered as ``name``.

    Args:
        name: one of ``available()``.
        num_heads: heads of the attention that it will serve, if any; not for functions that have nothing per head.
        chosen: options of that function; see ``options(name)``.

    Raises:
        ValueError: no such name, or an option with a value that the function refuses.
        TypeError: no such option, and the message lists the options and the nearest one; or a value that is not of the
            type in the option's annotation.
    """
    module = get(name)
    known = options(name)
    parameters = inspect.signature(module).parameters
    for option, value in chosen.items():
        if option not in known:
            raise TypeError(f"reweighting {name!r} has no option {option!r}{_nearest(option, known)}")
        _check_type(name, option, value, parameters[option].annotation)
    if num_heads is not None and "num_heads" in parameters:
        chosen["num_heads"] = num_heads
    return module(**chosen)


def _check_type(name: str, option: str, value: Any, annotation: Any) -> None:
    allowed = get_args(annotation) or (annotation,)
    if any(not isinstance(kind, type) for kind in allowed) or inspect.Parameter.empty in allowed:
        return
    if isinstance(value, bool):  # which Python takes for an int
        fits = bool in allowed
    else:
        fits = isinstance(value, allowed) or (isinstance(value, int) and float in allowed)
    if not fits:
        kinds = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
        raise TypeError(f"option {option!r} of reweighting {name!r} must be {kinds}, got {value!r}")


def _nearest(word: str, words: Iterable[str]) -> str:
    """What an error message says after an unknown word: the nearest one and all there are."""
    choices: Sequence[str] = sorted(words)
    if not choices:
        return "; it has none"
    near = difflib.get_close_matches(word, choices, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"; {guess}There are: {', '.join(choices)}"
