"""Tasks: each ties a model to its data, its loss and its metrics. The engine knows them only through ``Task``."""

from importlib import import_module

from multimax.suite.errors import UserError
from multimax.suite.tasks.base import Task

MODULES = {
    "deit": "multimax.suite.tasks.image_classification",
    "lm": "multimax.suite.tasks.language_modeling",
    "mt": "multimax.suite.tasks.translation",
}
"""Module of each task; it has ``Config``, the task's configuration, and ``create(config) -> Task``."""


def task_module(name: str):
    """The module of a task, imported when it is asked for: a language model needs no timm."""
    if name not in MODULES:
        raise UserError(f"task={name}: choose one of {', '.join(MODULES)}")
    return import_module(MODULES[name])


__all__ = ["MODULES", "Task", "task_module"]
