"""Processes that work for this one, and end when it does."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from multimax.suite.errors import UserError

GRACE = 60.0  # seconds that a worker which handles SIGTERM, as training does, has to write a checkpoint


@contextmanager
def worker_processes(count: int, start: Callable[[], object] | None = None) -> Iterator[ProcessPoolExecutor]:
    """``count`` processes, in each of which ``start`` is called first, if there is one.

    They end with this process, whatever ends it, since a killed process does not end its children. Raises UserError if
    one of them is killed.
    """
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    try:
        with ProcessPoolExecutor(count, context, _start, (start,)) as pool:
            yield pool
    except BrokenProcessPool:
        raise UserError(
            f"one of {count} worker processes was killed, as happens when memory runs out: free some, or start fewer; "
            "the same command goes on with what is done"
        ) from None


def _start(start: Callable[[], object] | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
