"""The functions by name, built in or registered by users.

    @reweight.register("scaled", positive=True) def scaled(scores, mask=None, *, scale=1.0):     # its options are
    keyword-only and need a default
        return reweight.softmax(scores * scale, mask=mask)

From then on, ``create("scaled", scale=2.0)`` makes it a module, and every task takes ``reweight=scaled``.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, get_args

from torch import Tensor

from multimax.formulas.rows import check_bool, check_count
from multimax.kernels.row_kernels import RowKernel
from multimax.reweight._base import Reweighting
from multimax.reweight._modulated import Modulated
from multimax.reweight._modulators import MODULATORS, Modulator

_REGISTRY: dict[str, type[Reweighting]] = {}

Registered = TypeVar("Registered", bound=Callable[..., Any])


class Traits(NamedTuple):
    """What holds for a function with any options and scores (``has_parameters``: with default options).

    ``sums_to_one``: the live weights of a row sum to one. ``can_be_zero``: a live weight can be zero. ``needs_length``:
    the weights depend on the number of live entries, and not only through sums over them. ``has_parameters``: there is
    something to train.
    """

    sums_to_one: bool
    can_be_zero: bool
    needs_length: bool
    has_parameters: bool


def register(
    name: str,
    *,
    positive: bool = False,
    can_be_zero: bool | None = None,
    sums_to_one: bool = True,
    needs_length: bool = False,
    row_kernel: Callable[..., RowKernel | None] | None = None,
) -> Callable[[Registered], Registered]:
    """Decorator that registers a function or a ``Reweighting`` subclass as ``name`` and returns it unchanged.

    Args:
        name: what ``create`` and ``reweight=`` will know it by.
        positive: the live weights of a row are positive and sum to one, so its loss is the negative log-likelihood.
            This argument and those below are for a function ``f(scores, mask=None, *, option=default, ...)``, which may
            also take ``dim``; a subclass of ``Reweighting`` has attributes and methods for them instead.
        can_be_zero, sums_to_one, needs_length: see ``Traits``. ``can_be_zero`` is the opposite of ``positive`` if None.
        row_kernel: a function of the same options, returning what ``Reweighting.row_kernel`` does.

    Raises:
        ValueError: ``name`` is taken, or the traits contradict one another.
        TypeError: what is registered is neither a function of scores and mask nor a subclass of ``Reweighting``; an
            option has no default; a subclass comes with traits or a kernel; or an argument has the wrong type.
    """
    _check_name(name)
    for flag, value in {"positive": positive, "sums_to_one": sums_to_one, "needs_length": needs_length}.items():
        check_bool(flag, value)
    if can_be_zero is not None:
        check_bool("can_be_zero", can_be_zero)
    if row_kernel is not None and not callable(row_kernel):
        raise TypeError(f"row_kernel must be a function or None, got {type(row_kernel).__name__}")
    if positive and (can_be_zero or not sums_to_one):
        other = "can_be_zero=True" if can_be_zero else "sums_to_one=False"
        raise ValueError(f"reweighting {name!r} cannot be positive (above zero, with sum one) and have {other}")
    if can_be_zero is None:
        can_be_zero = not positive
    of_function = positive or not (can_be_zero and sums_to_one) or needs_length or row_kernel is not None

    def decorate(definition: Registered) -> Registered:
        if name in _REGISTRY:
            raise ValueError(f"a reweighting named {name!r} is registered already; choose another name")
        module: type[Reweighting]
        if isinstance(definition, type) and issubclass(definition, Reweighting):
            if of_function:
                raise TypeError(f"{definition.__name__} says its traits and its row kernel itself: register({name!r})")
            module = definition
        elif isinstance(definition, type) or not callable(definition):
            what = getattr(definition, "__name__", repr(definition))
            raise TypeError(f"{what} must be a function or subclass multimax.reweight.Reweighting")
        else:
            module = _module_of(name, definition, row_kernel)
            module.sums_to_one, module.can_be_zero, module.needs_length = sums_to_one, can_be_zero, needs_length
            module.has_loss = sums_to_one and not can_be_zero
        for option in inspect.signature(module).parameters.values():
            if option.kind in (option.VAR_POSITIONAL, option.VAR_KEYWORD) or option.default is option.empty:
                raise TypeError(f"option {option.name!r} of reweighting {name!r} must be named and have a default")
        _REGISTRY[name] = module
        return definition

    return decorate


def _module_of(
    name: str, function: Callable[..., Tensor], kernel_of: Callable[..., RowKernel | None] | None
) -> type[Reweighting]:
    parameters = list(inspect.signature(function).parameters.values())
    if "mask" not in (parameter.name for parameter in parameters[1:]):
        raise TypeError(f"reweighting {name!r} must take scores, a mask by that name, and its options")

    class FunctionReweighting(Reweighting):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.options = options

        def extra_repr(self) -> str:
            return ", ".join(f"{name}={value}" for name, value in self.options.items())

        def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
            return function(scores, mask=mask, **self.options)

        def row_kernel(self) -> RowKernel | None:
            return None if kernel_of is None else kernel_of(**self.options)

        def __reduce_ex__(self, protocol: Any) -> Any:
            # Pickle cannot find this class by name. It can find the function, and importing that registers it.
            if type(self) is not FunctionReweighting:
                return super().__reduce_ex__(protocol)
            return _unbuilt, (function, name), self.__dict__

    FunctionReweighting.__name__ = FunctionReweighting.__qualname__ = getattr(function, "__name__", name)
    FunctionReweighting.__doc__ = function.__doc__
    options = inspect.Signature([p for p in parameters[1:] if p.name not in ("mask", "dim")])
    FunctionReweighting.__signature__ = options  # type: ignore[attr-defined]
    return FunctionReweighting


def _unbuilt(function: Callable[..., Tensor], name: str) -> Reweighting:
    module = get(name)
    return module.__new__(module)


def available() -> tuple[str, ...]:
    """Names of all registered functions, sorted."""
    return tuple(sorted(_REGISTRY))


def get(name: str) -> type[Reweighting]:
    """The module class registered as ``name``.

    Raises:
        TypeError: ``name`` is not a string.
        ValueError: there is no such name; the message gives the nearest one and all others.
    """
    _check_name(name)
    if name not in _REGISTRY:
        raise ValueError(f"no reweighting is named {name!r}{_nearest(name, available())}")
    return _REGISTRY[name]


def traits(name: str) -> Traits:
    """The traits of a function.

    Raises:
        ValueError: no such name.
    """
    module = get(name)
    return Traits(module.sums_to_one, module.can_be_zero, module.needs_length, module.has_parameters)


def at_the_output(name: str) -> str:
    """A classifier's output function if ``name`` is chosen for its attention and nothing for its output.

    This is ``name`` itself if it has a loss and positive weights, as label smoothing needs; otherwise "softmax".

    Raises:
        ValueError: no such name.
    """
    module = get(name)
    return name if module.has_loss and not module.can_be_zero else "softmax"


def options(name: str) -> dict[str, Any]:
    """The options of a function with their defaults, including ``modulator`` but not ``num_heads``.

    Raises:
        ValueError: no such name.
    """
    return _options(get(name)) | {"modulator": None}


def _options(kind: type) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters
    return {option: p.default for option, p in parameters.items() if option != "num_heads"}


def create(
    name: str,
    *,
    num_heads: int | None = None,
    modulator: str | Mapping[str, Any] | Modulator | None = None,
    **chosen: Any,
) -> Reweighting:
    """Build the module registered as ``name``.

    Args:
        name: one of ``available()``.
        num_heads: heads of the attention it will serve, if any; ignored by functions with nothing per head.
        modulator: bends the scores first. A name in ``MODULATORS``; a name with options, {"name": "seglu", "order": 1};
            or a module. Softmax behind "seglu" is ``MultiMax``.
        chosen: options of the function; see ``options(name)``.

    Raises:
        ValueError: there is no such name, or the function refuses the value of an option.
        TypeError: there is no such option (the message gives the nearest one and all others), a value does not have the
            annotated type of its option, or ``num_heads`` is not an int.
    """
    module = get(name)
    if num_heads is not None:
        check_count("num_heads", num_heads)
    made: Reweighting = _built(f"reweighting {name!r}", module, chosen, num_heads)
    if modulator is None:
        return made
    if isinstance(modulator, Modulator):
        return Modulated(made, modulator)
    bend, of_bend = _modulator(modulator)
    if (module, bend) == (_REGISTRY.get("softmax"), MODULATORS["seglu"]):
        return _built("modulator 'seglu'", get("multimax"), of_bend, num_heads)
    return Modulated(made, _built(f"modulator {bend.__name__.lower()!r}", bend, of_bend, num_heads))


def _modulator(given: str | Mapping[str, Any]) -> tuple[type[Modulator], dict[str, Any]]:
    """The modulator's class and options."""
    if not isinstance(given, str) and not (isinstance(given, Mapping) and isinstance(given.get("name"), str)):
        raise TypeError(
            f'modulator must be a name, {{"name": NAME, "OPTION": value}} or a Modulator, got {_in_a_line(given)}'
        )
    name, options = (given, {}) if isinstance(given, str) else (given["name"], {**given})
    options.pop("name", None)
    if name not in MODULATORS:
        raise ValueError(f"no modulator is named {name!r}{_nearest(name, MODULATORS)}")
    return MODULATORS[name], options


def _built(what: str, kind: type, chosen: dict[str, Any], num_heads: int | None) -> Any:
    """An instance of ``kind`` with the ``chosen`` options, checked, and ``num_heads`` if it takes that."""
    known, parameters = _options(kind), inspect.signature(kind).parameters
    for option, value in chosen.items():
        if option not in known:
            raise TypeError(f"{what} has no option {option!r}{_nearest(option, known)}")
        _check_type(what, option, value, parameters[option].annotation)
    heads = {"num_heads": num_heads} if num_heads is not None and "num_heads" in parameters else {}
    return kind(**chosen, **heads)


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")


def _check_type(what: str, option: str, value: Any, annotation: Any) -> None:
    allowed = get_args(annotation) or (annotation,)
    if any(not isinstance(kind, type) for kind in allowed) or inspect.Parameter.empty in allowed:
        return
    if isinstance(value, bool):  # which is an int to Python
        fits = bool in allowed
    else:
        fits = isinstance(value, allowed) or (isinstance(value, int) and float in allowed)
    if not fits:
        kinds = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
        raise TypeError(f"option {option!r} of {what} must be {kinds}, got {_in_a_line(value)}")


def _in_a_line(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _nearest(word: str, words: Iterable[str]) -> str:
    """The end of an error message about an unknown word: the nearest one and all known ones."""
    choices: Sequence[str] = sorted(words)
    if not choices:
        return "; it has none"
    near = difflib.get_close_matches(word, choices, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"; {guess}There are: {', '.join(choices)}"
