"""What is made of text once, on first use, and kept in ``data.cache_dir`` beside what it was made from."""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from multimax.suite.errors import UserError
from multimax.suite.files import expanded
from multimax.suite.waiting import waiting

T = TypeVar("T")


class Cached(Protocol):
    """A configuration of data that are kept."""

    name: str
    cache_dir: str


def cached(
    data: Cached, origin: Mapping[str, Any], load: Callable[[Path], T | None], make: Callable[[Path], object]
) -> T:
    """What ``load`` finds in the folder of ``data``; where that is None, once ``make`` has made the folder.

    The folder's name is a digest of ``origin``, so that whatever changes that is kept in another. One process at a time
    makes it: all processes of a run want it at once. Raises UserError where it cannot be written.
    """
    key = hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:16]
    folder = expanded("data.cache_dir", data.cache_dir) / f"{data.name}-{key}"
    if (found := load(folder)) is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with (folder.parent / f".{folder.name}.lock").open("w") as lock:
                with waiting(f"another process, which prepares {folder}"):
                    fcntl.flock(lock, fcntl.LOCK_EX)
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
    """A folder to fill, which takes the place of ``folder`` when the block ends, or goes when it fails."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
