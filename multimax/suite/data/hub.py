"""Tables of Hugging Face ``datasets``, from the hub or from files, which it copies to its own cache on first use."""

import sys
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten
from typing import Any

from multimax.suite.errors import UserError
from multimax.suite.waiting import waiting

VALIDATION = ("validation", "valid", "val", "dev")
"""Names of the validation split, most common first."""


def load_tables(path: str, place: str, **options: Any) -> dict[str, Any]:
    """A data set's splits by name; ``options`` are those of ``datasets.load_dataset``.

    Raises UserError, naming ``place``, if it cannot be loaded.
    """
    import datasets

    if path == place and Path(path).is_dir():  # datasets would read it, and cache it under a time that may be forged
        raise UserError(f"data.hub={path} is a folder here: set data.root to it")
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are reported below, in one line
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        with waiting(f"{place} to be loaded, and copied to a cache the first time"):
            return dict(datasets.load_dataset(path, **options))
    except Exception as error:  # gated, absent, offline, a broken file, a full disk: each has its own type
        wrapped = isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__
        reason = wrapped or error
        text = shorten(str(reason), 200, placeholder=" ...") or type(reason).__name__
        raise UserError(f"cannot load {place}: {text}") from error


def spellings(split: str) -> tuple[str, ...]:
    """The names that ``split`` may have, most common first; validation has several."""
    return VALIDATION if split in VALIDATION else (split,)


def named(split: str, there: Iterable[str]) -> str | None:
    """The name that ``split`` has among those that are there; None if it is absent."""
    return next((name for name in spellings(split) if name in set(there)), None)
