"""A user's own code: the modules in ``plugins``, and what a ``_target_`` in the configuration names.

A part of the configuration with a ``_target_`` (``model``, ``data``, ``optimizer`` or ``schedule``) is built by that
class or function. It receives by keyword whatever else the part contains, and those of the task's offers that its
signature names: a class takes what it needs, and a mistyped key is an error.
"""

import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from multimax.suite.errors import UserError

TARGET = "_target_"
PARTS = ("model", "data", "optimizer", "schedule")


def import_plugins(names: Any) -> None:
    """Import modules by name. Raises UserError for one that is not there or that fails."""
    several = isinstance(names, Sequence) and not isinstance(names, str)
    if names is not None and not (several and all(isinstance(name, str) for name in names)):
        raise UserError(f"plugins={names}: this is not a list of modules, such as plugins=[my_functions]")
    for name in names or []:
        import_module("plugins", name)


def import_module(key: str, name: str) -> ModuleType:
    """A module from PYTHONPATH or the working folder. Raises UserError, which begins with ``key``."""
    if name.endswith(".py") or not all(map(str.isidentifier, name.split("."))):
        raise UserError(f"{key}: {name} is not the name of a module, such as my_functions for my_functions.py")
    if not {"", os.getcwd()} & {*sys.path}:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        where = "on PYTHONPATH and in the working folder"
        raise UserError(f"{key}: there is no module {error.name} (looked for {name} {where})") from None
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        at = "" if isinstance(error, SyntaxError) else f" at {last.filename}:{last.lineno}"
        reason = " ".join(str(error).split())
        raise UserError(f"{key}: {name} cannot be imported: {type(error).__name__}{at}: {reason}") from None


def find(key: str, target: Any) -> Any:
    """What the dotted name ``target`` refers to. Raises UserError, which begins with ``key``, if it does not exist."""
    module, _, name = str(target).rpartition(".")
    if not module:
        raise UserError(f"{key}.{TARGET}={target}: this is not a dotted name, such as my_module.MyClass")
    made = import_module(f"{key}.{TARGET}", module)
    found = getattr(made, name, None)
    if not callable(found):
        where = getattr(made, "__file__", None) or "Python itself"  # another than meant, if both have one name
        raise UserError(f"{key}.{TARGET}={target}: {module} has no class or function {name} ({where})")
    return found


def has_target(part: Any) -> bool:
    return getattr(part, TARGET, None) is not None


def build(key: str, part: Any, *arguments: Any, offered: Mapping[str, Any], **given: Any) -> Any:
    """Call the ``_target_`` of a part of the configuration, with keys of its own.

    ``offered`` and the keys of the dataclass are passed if the signature names them, but no null to an argument with a
    default; ``arguments`` and ``given`` are always passed. Raises UserError if it takes other arguments.
    """
    target = find(key, getattr(part, TARGET))
    takes, known = signature(key, target), {item.name: getattr(part, item.name) for item in fields(part)}
    keywords = {**given, **{name: known[name] for name in part.__own__ if name != TARGET}}
    for name, value in {**known, **offered}.items():
        wanted = takes.parameters.get(name)
        if wanted and name not in keywords and (value is not None or wanted.default is inspect.Parameter.empty):
            keywords[name] = value
    try:
        takes.bind(*arguments, **keywords)
    except TypeError as error:
        raise UserError(f"{key}: {target.__module__}.{target.__qualname__}{takes}: {error}") from None
    return target(*arguments, **keywords)


def signature(key: str, target: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(target)
    except ValueError:
        raise UserError(f"{key}.{TARGET}: nobody knows what {target} takes: wrap it in a function") from None


def taken(key: str, part: Any) -> set[str]:
    """Names of the arguments of a part's ``_target_``."""
    return {*signature(key, find(key, getattr(part, TARGET))).parameters}


def require(key: str, made: Any, kind: type, *methods: str) -> Any:
    """``made`` if it is a ``kind`` with these methods. Raises UserError."""
    if not isinstance(made, kind):
        raise UserError(f"{key}: {type(made).__module__}.{type(made).__qualname__} is not a {kind.__name__}")
    if missing := [name for name in methods if not callable(getattr(made, name, None))]:
        raise UserError(f"{key}: {type(made).__module__}.{type(made).__qualname__} has no method {missing[0]}")
    return made


def with_own_parts(schema: type, composed: Mapping[str, Any]) -> type:
    """The dataclass of a configuration, extended by the keys of each part that has a ``_target_``."""
    kinds, changed = get_type_hints(schema), []
    for name in PARTS:
        part, kind = composed.get(name), kinds.get(name)
        if isinstance(part, Mapping) and part.get(TARGET) is not None:
            kind = kind if isinstance(kind, type) and is_dataclass(kind) else Part
            own = {str(key) for key in part} - {item.name for item in fields(kind)}
            if wrong := [key for key in own if not key.isidentifier()]:
                raise UserError(f"{name}.{wrong[0]}: the key of a part with {TARGET} is the name of an argument")
            changed.append((name, with_own_keys(kind, tuple(sorted(own)))))
    return make_dataclass(schema.__name__, changed, bases=(schema,)) if changed else schema


@dataclass
class Part:
    """A part about which the task says nothing."""


@cache
def with_own_keys(kind: type, own: tuple[str, ...]) -> type:
    """A dataclass like ``kind`` with further keys, whose instances data workers can unpickle."""

    def reduce(self: Any) -> tuple[Any, ...]:
        return _without_values, (kind, own), self.__dict__

    further = [(name, Any, field(kw_only=True)) for name in own]
    return make_dataclass(kind.__name__, further, bases=(kind,), namespace={"__own__": own, "__reduce__": reduce})


def _without_values(kind: type, own: tuple[str, ...]) -> Any:
    return object.__new__(with_own_keys(kind, own))


def modules(config: Mapping[str, Any]) -> list[str]:
    """Names of the user's own modules in a configuration."""
    parts = [config, *(config.get(name) for name in PARTS)]
    targets = [part.get(TARGET) for part in parts if isinstance(part, Mapping)]
    plugins = config.get("plugins") or ()
    return sorted({*map(str, plugins), *(str(target).rpartition(".")[0] for target in targets if target is not None)})


def sources(config: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of the source of each of these modules; of a package, that of all its modules."""
    found = {}
    for name in modules(config):
        digest = hashlib.sha256()
        for path in source_files(import_module("plugins", name)):
            digest.update(path.read_bytes())
        found[name] = digest.hexdigest()
    return found


def source_files(module: ModuleType) -> Iterator[Path]:
    if hasattr(module, "__path__") and not is_installed(module):
        yield from sorted(Path(next(iter(module.__path__))).rglob("*.py"))
    elif getattr(module, "__file__", None):
        yield Path(str(module.__file__))


def is_installed(module: ModuleType) -> bool:
    """Whether the module is installed in the environment, as torch is, and not part of the user's work."""
    paths = sysconfig.get_paths()
    here = Path(module.__file__ or next(iter(module.__path__))).resolve()
    return any(here.is_relative_to(Path(paths[kind]).resolve()) for kind in ("stdlib", "purelib", "platlib"))
