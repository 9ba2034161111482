"""Loggers: what shows a run elsewhere. They read the run's files, and training goes on without them."""

from multimax.suite.engine.observation import Observer
from multimax.suite.errors import UserError
from multimax.suite.loggers.mirror import Follower
from multimax.suite.registry import Registry
from multimax.suite.runs import Run

CREATE = Registry(
    {
        "wandb": "multimax.suite.loggers.wandb_mirror.create",
        "tensorboard": "multimax.suite.loggers.tensorboard_mirror.create",
    }
)
"""Of each logger ``create(run) -> Mirror``; its name is in ``config.LOGGERS`` too. The one called none has nothing."""


def follow(run: Run, name: str) -> Observer:
    """Keeps the logger called ``name`` up to date with a run. Raises UserError if its package is missing."""
    if name == "none":
        return Observer()
    try:
        return Follower(CREATE.find("logger", name)(run), run)
    except ModuleNotFoundError as error:
        way_out = f"pip install -e '.[{name}]' in the clone, or set logger=none"
        raise UserError(f"logger={name} needs the package {error.name}: {way_out}") from None
