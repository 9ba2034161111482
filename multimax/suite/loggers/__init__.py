"""Loggers: what shows a run elsewhere. They read the run's files, and training goes on without them."""

from importlib import import_module

from multimax.suite.engine.observation import Observer
from multimax.suite.errors import UserError
from multimax.suite.loggers.mirror import Follower
from multimax.suite.runs import Run

MODULES = {"wandb": "multimax.suite.loggers.wandb_mirror", "tensorboard": "multimax.suite.loggers.tensorboard_mirror"}
"""Module of each logger; it has ``create(run) -> Mirror``. The logger called none has nothing."""


def follow(run: Run, name: str) -> Observer:
    """Keeps the logger called ``name`` up to date with a run. Raises UserError if its package is missing."""
    if name == "none":
        return Observer()
    try:
        return Follower(import_module(MODULES[name]).create(run), run)
    except ModuleNotFoundError as error:
        way_out = f"pip install -e '.[{name}]' in the clone, or set logger=none"
        raise UserError(f"logger={name} needs the package {error.name}: {way_out}") from None
