"""Ways for a run to end other than by a bug; the entry points turn each into a single line."""

import argparse
import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import NoReturn

from multimax import kernels
from multimax.suite.pipes import refuse_pipes

OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR),
}
"""Errors of the system that are not the code's fault, wherever they occur."""
CONFIGURATION = ("hydra", "omegaconf", "yaml")
"""Packages whose errors are about what was typed; data and models do without them, and so does this module."""


class UserError(Exception):
    """A mistake that the user can correct; its message is printed in one line, without a traceback."""


def install(extra: str) -> str:
    """What to type for the packages of an extra: they come with the clone or with the wheel, whichever runs."""
    if Path(__file__).parents[2].joinpath("pyproject.toml").is_file():
        return f"pip install -e '.[{extra}]' in the clone"
    return f"pip install 'WHEEL[{extra}]', WHEEL being the file that multimax was installed from"


class Diverged(UserError):
    """The loss or the gradient was not finite for too long. All processes of a run raise it after the same step."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop; its state is in the checkpoint of ``step``. All processes raise it after that.

    It is a KeyboardInterrupt, so that whatever continues after a failed run, such as a sweep, does not continue after
    this. ``out_of_time`` if the signal was a cluster's warning, after which the run should be queued again.
    """

    def __init__(self, step: int, out_of_time: bool = False):
        super().__init__(f"stopped at step {step}; the same command continues from there")
        self.out_of_time = out_of_time


class Parser(argparse.ArgumentParser):
    """argparse's, but a mistake is one line: its own message follows a list of all options."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help lists what it takes)")


def whole(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """An argument's type: a whole number from ``least`` to ``most``."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} to {most}")
        return int(text)

    return read


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Turn what the user can correct into one line and exit code 2; tracebacks are for our own mistakes."""

    @wraps(main)
    def wrapped() -> None:
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # of train.py and the like, while they import
            signal.signal(signal.SIGINT, signal.default_int_handler)
        open_streams()
        refuse_pipes()
        os.environ.pop("MPLBACKEND", None)  # figures go to files: what a notebook has left must not stop their import
        logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a line is never lost to a terminal that lacks one of its characters
                stream.reconfigure(errors="backslashreplace")
        try:
            require_working_folder()
            require_kernels_mode()
            try:
                with limits_explained():
                    main()
            finally:
                flush_output()
        except UserError as error:
            fail(*error.args)
        except BrokenPipeError:  # the reader has left, as head does once it has its lines
            silence_output()
            sys.exit(141)
        except OSError as error:
            if error.errno not in OF_THE_MACHINE:
                raise
            fail(f"{error.filename or 'a file or standard output'}: {error.strerror}")
        except Exception as error:  # of a value of a configuration that was not read before
            if type(error).__module__.partition(".")[0] not in CONFIGURATION:
                raise
            key = getattr(error, "full_key", None)
            reason = " ".join(str(error).split()) if hasattr(error, "problem_mark") else str(error).partition("\n")[0]
            fail(f"{key}: {reason}" if key else reason)
        except KeyboardInterrupt as error:
            print(error if isinstance(error, Interrupted) else "stopped; the last checkpoint stands", file=sys.stderr)
            sys.exit(130)

    return wrapped


def fail(*messages: object) -> NoReturn:
    for message in messages:
        print(f"error: {printable(str(message))}", file=sys.stderr)
    sys.exit(2)


def open_streams() -> None:
    """Standard streams for a process that was started with closed ones (``>&-``): files would take their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def require_working_folder() -> None:
    """Raise UserError if somebody has deleted the folder that this process was started in."""
    try:
        os.getcwd()
    except OSError:
        raise UserError("the working folder no longer exists: cd into one that does") from None


def require_kernels_mode() -> None:
    """Raise UserError if MULTIMAX_KERNELS is not a mode."""
    if kernels.mode() not in kernels.MODES:
        raise UserError(f"MULTIMAX_KERNELS={kernels.mode()}: choose one of {', '.join(kernels.MODES)}, or unset it")


@contextmanager
def limits_explained() -> Iterator[None]:
    """Turn what the machine lacks, memory or the kernels that MULTIMAX_KERNELS=require wants, into UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch has a type for the GPU's memory only
        reason = str(error)
        if reason.startswith("MULTIMAX_KERNELS="):
            raise UserError(reason.partition("\n")[0]) from None
        if not isinstance(error, MemoryError) and not re.search("DefaultCPUAllocator|out of memory|bad_alloc", reason):
            raise
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", reason, re.IGNORECASE)
        raise UserError(
            f"out of memory{f' ({asked[1]} were asked for)' if asked else ''}: lower training.micro_batch_size, which "
            "leaves a run's numbers as they are; in evaluation data.eval_batch_size or decoding.batch_tokens"
        ) from None


def flush_output() -> None:
    """Print what is still to be printed. Raises UserError if standard output is a file on a full disk."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        silence_output()
        raise UserError(f"standard output cannot be written: {getattr(error, 'strerror', None) or error}") from None


def silence_output() -> None:
    """Discard whatever else is printed: Python would try once more, and fail, as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """The same on one line of a terminal: a line break or another control character in a name is spelt out."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
