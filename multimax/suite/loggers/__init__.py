"""Loggers: what shows a run elsewhere. They read the run's files, and training goes on without them."""

from importlib import import_module

from multimax.suite.errors import UserError
from multimax.suite.loggers.mirror import Follower, Mirror
from multimax.suite.runs import Run

MODULES = {"wandb": "multimax.suite.loggers.wandb_mirror", "tensorboard": "multimax.suite.loggers.tensorboard_mirror"}
"""Module of each logger; it has ``create(run) -> Mirror``. The logger called none has nothing."""


def follow(run: Run, name: str) -> Follower:
    """Keeps the logger called ``name`` up to date with a run. Raises UserError if its package is missing."""
    return Follower(create(name, run), run)


def create(name: str, run: Run) -> Mirror | None:
    if name == "none":
        return None
    try:
        return import_module(MODULES[name]).create(run)
    except ModuleNotFoundError as error:
        way_out = f"pip install -e '.[{name}]' in the clone, or set logger=none"
        raise UserError(f"logger={name} needs the package {error.name}: {way_out}") from None


__all__ = ["Follower", "Mirror", "follow"]
