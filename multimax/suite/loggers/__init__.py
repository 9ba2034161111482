"""Loggers show a run elsewhere. They read the run's files, and training continues if they fail."""

from multimax.suite.config import LOGGERS
from multimax.suite.engine.observation import Observer
from multimax.suite.errors import UserError, install
from multimax.suite.loggers.mirror import Follower
from multimax.suite.runs import Run


def follow(run: Run, name: str) -> Observer:
    """An observer that keeps the logger ``name`` up to date with a run. Raises UserError if its package is missing."""
    if name == "none":
        return Observer()
    try:
        return Follower(LOGGERS.find("logger", name)(run), run)
    except ModuleNotFoundError as error:
        raise UserError(f"logger={name} needs the package {error.name}: {install(name)}; or set logger=none") from None
