"""Waiting that says what it waits for, so that nobody has to guess whether a run has stopped."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST, THEN = 8.0, 60.0  # seconds until the first message, and between later ones


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on standard error that the block waits for ``what``: after FIRST seconds, then every THEN seconds."""
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        pause = FIRST
        while not over.wait(pause):
            print(f"waiting for {what}, {time.monotonic() - began:.0f} s by now", file=sys.stderr, flush=True)
            pause = THEN

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        over.set()
