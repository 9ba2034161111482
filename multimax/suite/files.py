"""Files that are either complete or absent, and JSON lines that survive a kill."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from multimax.suite.errors import UserError
from multimax.suite.pipes import require_file
from multimax.suite.waiting import waiting


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the error of a full or broken disk into one line that names ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; mend that, and repeat the command"
        ) from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file by a rename, so that neither a reader nor a kill can leave half of it. Raises UserError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # another process may write the same file
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def alone(path: Path, other: str = "another process that writes in {path}") -> Iterator[bool]:
    """Have other processes of this machine that ask for the same ``path``, a folder or a file, wait for their turn.

    True within the block, or False if nothing keeps them away: there is no such path, or its disk has no locks.
    """
    is_held = False
    with ExitStack() as stack:
        with suppress(OSError), waiting(other.format(path=path)):
            descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            is_held = True
        yield is_held


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises OSError, also for a pipe or a device, which would keep a reader waiting."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        require_file(os.fstat(file.fileno()), path)
        return file.read()


def flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, none if it is absent; a last line that a kill cut short is ignored.

    Raises UserError if any other line is damaged: continuing without it would hide a loss.
    """
    records = []
    lines = read_file(path).splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            record = None
        if not isinstance(record, dict):
            raise UserError(f"line {number} of {path} is damaged: mend it, or delete it to go on without")
        records.append(record)
    return records


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Replace a whole file of JSON lines: appending would join a new line to one that a kill cut short."""
    write_atomic(path, "".join(f"{json.dumps(record)}\n" for record in records))


def expanded(key: str, path: str) -> Path:
    """The path that a key of the configuration names. Raises UserError for a ``~`` where nobody has a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{key}={path}: there is no home directory to put for ~; give the whole path") from None
