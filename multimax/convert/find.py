"""Which modules of a model attend, and how, as read from the code of their ``forward`` and of what it calls.

Nothing runs unless inputs are given. The names in compiled code say what may be called, so a module may seem to call
something that this model never reaches. What it does call is named in its code or in that of functions and methods
named there.
"""

import ast
import functools
import importlib
import inspect
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from multimax.convert.calls import MASK_FLOOR
from multimax.convert.intercept import Intercepted
from multimax.convert.watch import Inputs, watch
from multimax.reweight import Reweighting

TORCH_ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward"}
REGISTRY = "ALL_ATTENTION_FUNCTIONS"
SOFTMAX = {"softmax", "Softmax"}
# Fused attention that cannot be replaced.
FUSED = {
    "flash_attn_func": "flash-attn",
    "flash_attn_qkvpacked_func": "flash-attn",
    "flash_attn_varlen_func": "flash-attn",
    "memory_efficient_attention": "xFormers",
    "flex_attention": "FlexAttention",
    "_transformer_encoder_layer_fwd": "torch's fused encoder layer",
}
# The calls that write the number that hides an entry into a mask.
FILLS = {"masked_fill", "masked_fill_", "where", "fill_", "full", "full_like", "new_full"}
HEADS = ("num_heads", "n_heads", "heads", "nhead", "num_attention_heads", "n_head")


@dataclass(frozen=True)
class Site:
    """A module that attends, ``by`` "torch"'s functions, transformers' "registry", or "" if it cannot be replaced.

    ``obstacle`` says why it is not converted; if it is converted, its ``attributes`` are set.
    """

    path: str
    module: nn.Module
    by: str
    obstacle: str | None = None
    num_heads: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def find(model: nn.Module, inputs: Inputs | None = None) -> list[Site]:
    """Every module of ``model`` that attends or may attend, in the order of ``named_modules``.

    With ``inputs`` the model runs once, and what it calls then takes precedence over what its code may call.
    """
    sites = {path: _site(path, module, model) for path, module in model.named_modules()}
    for path, called in ({} if inputs is None else watch(model, inputs)).items():
        sites[path] = _seen(path, model, sites[path], called)
    return [site for site in sites.values() if site is not None]


def _seen(path: str, model: nn.Module, site: Site | None, called: set[str]) -> Site | None:
    """``site``, as found from a module's code, corrected by what the module ``called``."""
    module = model.get_submodule(path)
    if isinstance(module, Intercepted | Reweighting):
        return site
    if "attention" in called and (site is None or site.by == ""):
        return _by_torch(path, module, model, set())
    is_served = site is not None and (site.by == "registry" or {"fused_attn", "takes_scores"} & site.attributes.keys())
    if called == {"softmax"} and not is_served:
        return Site(path, module, "", "it takes a softmax of its own")
    return site


def _site(path: str, module: nn.Module, model: nn.Module) -> Site | None:
    if isinstance(module, Intercepted):
        return Site(path, module, "torch", "it is converted already")
    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        return Site(path, module, "", "it is a graph: convert the model before it is traced")
    if isinstance(module, nn.Softmax | Reweighting):  # a Softmax counts for the module around it
        return None
    names = called_names(module)
    if REGISTRY in names:
        return _by_registry(path, module, model)
    if (type(module).__module__, type(module).__name__) == ("x_transformers.attend", "Attend"):
        return _attend(path, module, model)
    if names & TORCH_ATTENTION:
        return _by_torch(path, module, model, names)
    if (fused := names & FUSED.keys()) and not isinstance(module, nn.TransformerEncoderLayer):
        return Site(path, module, "", f"it attends by {FUSED[min(fused)]}")
    own = any(isinstance(child, nn.Softmax) for child in module.children())
    return Site(path, module, "", "its code has a softmax of its own") if own or names & SOFTMAX else None


def _by_registry(path: str, module: nn.Module, model: nn.Module) -> Site:
    """A transformers module that looks up the attention named in its configuration."""
    obstacle = None
    ours = integration()
    cls: Any = type(module)
    named = getattr(getattr(module, "config", None), "_attn_implementation", "no attention")
    if unknown := sorted(_handed_over(cls) - ours.ARGUMENTS):
        obstacle = f"it passes {', '.join(unknown)} to its attention, which only the attention of transformers heeds"
    elif named not in ("sdpa", "eager", ours.NAME):
        obstacle = f"its configuration names {named}, for which masks are made differently: load it with 'sdpa'"
    elif hasattr(module, "reweight"):
        obstacle = "it has an attribute named reweight"
    return Site(path, module, "registry", obstacle, _num_heads(path, model))


def integration() -> Any:
    """Our transformers integration, which imports this module and takes seconds to import."""
    return importlib.import_module("multimax.integrations.transformers")


@functools.cache
def _handed_over(cls: Any) -> frozenset[str]:
    """The keywords of the calls in a ``forward`` whose first argument is the module, as in calls of attention."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.forward)))
    except (OSError, SyntaxError):  # the class was made without a file; ``attend`` sees what arrives
        return frozenset()
    calls = [call for call in ast.walk(tree) if isinstance(call, ast.Call) and call.args]
    given = [call.keywords for call in calls if isinstance(call.args[0], ast.Name) and call.args[0].id == "self"]
    return frozenset(keyword.arg for keywords in given for keyword in keywords if keyword.arg)


def _by_torch(path: str, module: nn.Module, model: nn.Module, names: set[str]) -> Site:
    attributes: dict[str, Any] = {}
    if getattr(module, "fused_attn", True) is False:  # timm's choice between this and a softmax of its own
        attributes["fused_attn"] = True
    if (floor := _mask_floor(path, model)) != MASK_FLOOR:
        attributes["mask_floor"] = floor
    return Site(path, module, "torch", _obstacle(module, names), _num_heads(path, model), attributes)


def _obstacle(module: nn.Module, names: set[str]) -> str | None:
    if "forward" in vars(module):
        return "its forward was replaced on the instance: convert the model before hooks are put on it"
    if hasattr(module, "reweight"):
        return "it has an attribute named reweight"
    if "checkpoint" in names:
        return "it checkpoints its own attention, whose second run would take softmax"
    return None


def _attend(path: str, module: nn.Module, model: nn.Module) -> Site:
    """x-transformers' module, which uses fused attention or a given function of masked scores."""
    function = getattr(module, "attn_fn", None)
    options: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        options |= function.keywords
        function = function.func
    obstacle = None if function is F.softmax and options.get("dim") == -1 else "its weights are not those of softmax"
    if getattr(module, "flash_pack_seq", False):
        obstacle = "it attends by flash-attn"
    heads = _num_heads(path, model)
    return Site(path, module, "torch", obstacle or _obstacle(module, set()), heads, {"takes_scores": True})


def _num_heads(path: str, model: nn.Module) -> int | None:
    """The number of heads according to the module, its configuration or the module that it is part of."""
    *outer, module = _around(path, model)
    for owner in (module, getattr(module, "config", None), *outer[-1:]):
        for name in HEADS:
            number = getattr(owner, name, None)
            if isinstance(number, int) and not isinstance(number, bool):
                return number
    return None


def called_names(module: nn.Module) -> set[str]:
    """The names in the code of ``forward`` and of all functions and methods outside torch named there."""
    names: set[str] = set()
    seen: set[types.CodeType] = set()
    pending: list[tuple[Any, Any]] = [(type(module).forward, module)]
    while pending:
        called, owner = pending.pop()
        function = _plain(called)
        if function is None or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        if _is_object(called):  # such as diffusers' processors; methods named in its code are its own
            owner = called
        cells = (cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell))
        found = [content for content in cells if _is_foreign(content)]
        mentioned = {name for code in _codes(function.__code__) for name in code.co_names}
        names |= mentioned
        for name in mentioned:
            methods = [vars(base)[name] for base in type(owner).__mro__ if name in vars(base)]
            found += methods if "super" in mentioned else methods[:1]
            found.append(getattr(owner, "__dict__", {}).get(name))
            value = function.__globals__.get(name)
            found.append(value if _is_foreign(value) else None)
            if isinstance(value, types.ModuleType) and not value.__name__.startswith("torch"):
                found += (f for other in mentioned if _is_foreign(f := vars(value).get(other)))
        pending += ((each, owner) for each in found)
    return names


def _is_object(value: Any) -> bool:
    """Whether calling it runs its class's ``__call__``; not for modules, which are looked at by themselves."""
    has_call = callable(value) and isinstance(value.__call__, types.MethodType)
    return has_call and not isinstance(value, nn.Module | type)


def _plain(function: Any) -> types.FunctionType | None:
    """The Python function inside decorators, partial applications, methods, properties and objects, or None."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, staticmethod | classmethod | types.MethodType):
            function = function.__func__
        elif isinstance(function, property):
            function = function.fget
        elif isinstance(function, types.FunctionType) and hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif _is_object(function):
            function = type(function).__call__
        else:
            return function if isinstance(function, types.FunctionType) else None


def _is_foreign(value: Any) -> bool:
    function = _plain(value)
    return function is not None and (function.__module__ or "").partition(".")[0] != "torch"


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # empty
        return False


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """``code`` and that of all functions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _mask_floor(path: str, model: nn.Module) -> float:
    """Half the number, such as Swin's -100, with which a module around the one at ``path`` fills masks."""
    classes: list[Any] = [type(module) for module in _around(path, model)]
    return max((filled / 2 for cls in classes for filled in _fills(cls)), default=MASK_FLOOR)


def _around(path: str, model: nn.Module) -> list[nn.Module]:
    """The model, the one at ``path``, and the modules in between."""
    parts = path.split(".") if path else []
    return [model.get_submodule(".".join(parts[:i])) for i in range(len(parts) + 1)]


@functools.cache
def _fills(cls: Any) -> tuple[float, ...]:
    """The constants between ``MASK_FLOOR`` and -50 where masks are filled, in methods and functions that they name."""
    methods = [_plain(method) for base in cls.__mro__ for method in vars(base).values() if _is_foreign(method)]
    named = [f.__globals__.get(name) for f in methods if f for code in _codes(f.__code__) for name in code.co_names]
    functions = methods + [_plain(value) for value in named if _is_foreign(value)]
    codes = dict.fromkeys(code for f in functions if f for code in _codes(f.__code__))
    constants = (c for code in codes if FILLS & {*code.co_names} for c in code.co_consts)
    return tuple(c for c in constants if isinstance(c, int | float) and MASK_FLOOR < c <= -50)
