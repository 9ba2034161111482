"""Folders made from text once, on first use, and kept in ``data.cache_dir``."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from multimax.suite.errors import UserError
from multimax.suite.files import alone, expanded
from multimax.suite.waiting import waiting

T = TypeVar("T")


class Cached(Protocol):
    """A configuration of cached data."""

    name: str
    cache_dir: str


def cached(
    data: Cached, origin: Mapping[str, Any], load: Callable[[Path], T | None], make: Callable[[Path], object]
) -> T:
    """What ``load`` finds in the folder of ``data``, which ``make`` first makes if that is None.

    The folder's name is a digest of ``origin``, so another origin has another folder. All processes of a run want it at
    once, so only one makes it at a time. Raises UserError if it cannot be written.
    """
    key = hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:16]
    folder = expanded("data.cache_dir", data.cache_dir) / f"{data.name}-{key}"
    if (found := load(folder)) is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.parent / f".{folder.name}.lock"
            lock.touch()
            with alone(lock, f"another process, which prepares {folder}"):
                if (found := load(folder)) is None:
                    with waiting(f"the text to be prepared, once, in {folder}"):
                        make(folder)
                    found = load(folder)
        except OSError as error:
            raise UserError(
                f"data.cache_dir={data.cache_dir} cannot hold what is made of the text ({error}): name another folder"
            ) from None
    assert found is not None
    return found


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which replaces ``folder`` when the block ends; if the block raises, ``folder`` stays as it was.

    If there was none, a folder made by another process meanwhile, as can happen on a disk without locks, is kept.
    """
    was_there = folder.exists()
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if was_there:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            temporary.rename(folder)
        except OSError:
            if was_there or not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
