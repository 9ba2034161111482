"""Loggers: what shows a run elsewhere. They read the run's files, and training goes on without them."""

from importlib import import_module
from pathlib import Path

from multimax.suite.errors import UserError
from multimax.suite.loggers.mirror import Follower, Mirror
from multimax.suite.loggers.run_files import RunFiles

MODULES = {"wandb": "multimax.suite.loggers.wandb_mirror", "tensorboard": "multimax.suite.loggers.tensorboard_mirror"}
"""Module of each logger; it has ``create(files) -> Mirror``. The logger called none has nothing."""


def follow(path: Path, name: str) -> Follower:
    """What keeps the logger called ``name`` up with a run folder. Raises UserError where its package is missing."""
    files = RunFiles(path)
    return Follower(create(name, files), files)


def create(name: str, files: RunFiles) -> Mirror | None:
    if name == "none":
        return None
    try:
        return import_module(MODULES[name]).create(files)
    except ModuleNotFoundError as error:
        way_out = f"pip install 'multimax[{name}]', or set logger=none"
        raise UserError(f"logger={name} needs the package {error.name}: {way_out}") from None


__all__ = ["Follower", "Mirror", "RunFiles", "follow"]
