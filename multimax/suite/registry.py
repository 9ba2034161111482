"""What a configuration chooses by name, open to plugins."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from multimax.suite.errors import UserError

T = TypeVar("T")


class Registry(dict[str, Any]):
    """Objects by name; one given as a dotted name is imported on first use."""

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds a class or function. Raises ValueError if the name is taken."""

        def add(thing: T) -> T:
            if name in self and getattr(self[name], "__module__", None) != getattr(thing, "__module__", None):
                raise ValueError(f"there is something called {name} already: choose another name")
            self[name] = thing
            return thing

        return add

    def find(self, key: str, name: str) -> Any:
        """The object called ``name``. Raises UserError, beginning with ``key``, if there is none."""
        if name not in self:
            raise UserError(f"{key}={name}: choose one of {', '.join(self)}")
        thing = self[name]
        if not isinstance(thing, str):
            return thing
        module, _, attribute = thing.rpartition(".")
        return getattr(import_module(module), attribute)
