"""Pipes and devices where a file is expected, which would keep a reader waiting for a writer that never comes."""

import errno
import os
import stat
import sys
from functools import cache
from pathlib import Path
from typing import Any

STREAMS = ("/dev/", "/proc/")  # named there, a pipe is meant: /dev/stdin, or a shell's <(command)


def require_file(found: os.stat_result, path: Path) -> None:
    """Raise OSError if ``found``, what the system says of ``path``, is of a pipe, a device or a socket."""
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EPERM, "it is a pipe or a device, not a file", str(path))


@cache
def refuse_pipes() -> None:
    """From now on let ``open`` raise OSError for a pipe or a device, whoever calls it in this process.

    An audit hook, as libraries open files too, and each of ours would have to be remembered.
    """
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not isinstance(arguments[0], str | os.PathLike):
        return
    path, _, flags = arguments
    if flags & os.O_NONBLOCK or os.fspath(path).startswith(STREAMS):
        return
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # open has its own words for these
        return
    require_file(found, Path(path))
