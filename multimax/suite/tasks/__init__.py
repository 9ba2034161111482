"""Tasks: each ties a model to its data, its loss and its metrics. The engine knows them only through ``Task``."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from multimax.suite.config import RunConfig
from multimax.suite.errors import UserError
from multimax.suite.plugins import TARGET, find, import_plugins
from multimax.suite.registry import Registry
from multimax.suite.tasks.base import Task

MODULES = Registry(
    {
        "deit": "multimax.suite.tasks.image_classification",
        "lm": "multimax.suite.tasks.language_modeling",
        "mt": "multimax.suite.tasks.translation",
    }
)
"""Each task's module, which has ``Config``, the task's configuration, and ``create(config) -> Task``.

A plugin adds a subclass of ``Task`` with a ``Config`` through ``@MODULES.register("name")``.
"""


class OwnTask(NamedTuple):
    """A task that is a class, with the attributes of a task's module."""

    Config: type[RunConfig]
    create: type[Task]


def task_module(name: str | None) -> Any:
    """The module of a task, imported on demand: a language model needs no timm."""
    if name is None or name not in MODULES:
        raise UserError(f"task={name}: choose one of {', '.join(MODULES)}")
    found = MODULES[name]
    return import_module(found) if isinstance(found, str) else own_task(f"task={name}", found)


def task_of(config: Mapping[str, Any]) -> Any:
    """The module of a configuration's task, after importing its plugins. Raises UserError if there is none."""
    import_plugins(config.get("plugins"))
    if (target := config.get(TARGET)) is not None:
        return own_task(f"{TARGET}={target}", find("task", target))
    return task_module(config.get("task"))


def own_task(key: str, made: Any) -> OwnTask:
    """A task from a class. Raises UserError, beginning with ``key``, if the class lacks what a task needs."""
    if not (isinstance(made, type) and issubclass(made, Task)):
        raise UserError(f"{key}: {made.__name__} is not a subclass of multimax.suite.tasks.Task")
    config = getattr(made, "Config", None)
    if not (isinstance(config, type) and issubclass(config, RunConfig)):
        raise UserError(f"{key}: {made.__name__}.Config is not a subclass of multimax.suite.config.RunConfig")
    needed = (*made.__abstractmethods__, "metric", "higher_is_better", "unit")
    if missing := [name for name in sorted(needed) if name in made.__abstractmethods__ or not hasattr(made, name)]:
        raise UserError(f"{key}: {made.__name__} has no {', '.join(missing)}")
    return OwnTask(config, made)


__all__ = ["MODULES", "Task", "task_module", "task_of"]
