"""Push runs that were trained offline, or whose connection was lost, from their local files to a W&B server."""

from collections.abc import Sequence
from pathlib import Path

from multimax.suite.engine.console import say
from multimax.suite.errors import UserError, install
from multimax.suite.plugins import import_plugins
from multimax.suite.runs import Run


def push_wandb(runs: Sequence[Path]) -> None:
    """Upload what W&B does not yet have of each run.

    Prints a line for each run. Raises UserError before anything is sent if there is no server, and after all other runs
    are pushed if one of them failed.
    """
    try:
        from multimax.suite.loggers import wandb_mirror
    except ModuleNotFoundError as error:
        raise UserError(f"push-wandb needs the package {error.name}: {install('wandb')}") from None
    wandb_mirror.require_server()
    failures = []
    for number, path in enumerate(runs, 1):
        run = Run(path)
        try:
            check_not_mirrored(run)
            import_plugins(run.config["plugins"])  # a function's own defaults are part of the run's identity
            sent, url = wandb_mirror.push(run)
            say(f"{number}/{len(runs)} {path}: {sent} new steps, {url}")
        except Exception as error:  # this run's mistake must not hold up the others
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            failures.append(f"{path}: {reason}" if str(path) not in reason else reason)
            say(f"{number}/{len(runs)} {path}: failed")
    if failures:
        raise UserError(*failures)


def check_not_mirrored(run: Run) -> None:
    """Raise UserError for a run that is being trained with logger=wandb online: its history would have two writers."""
    newest = run.path / "wandb" / "latest-run"
    if newest.exists() and not newest.resolve().name.startswith("offline") and run.is_trained_now():
        raise UserError(f"{run.path} is being trained and shows itself; push it once it has stopped")
