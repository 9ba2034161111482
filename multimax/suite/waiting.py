"""Whoever waits says for what: nobody should have to guess whether a run stands still."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def waiting(what: str, first: float = 8.0, then: float = 60.0) -> Iterator[None]:
    """Say on standard error that the block waits for ``what``: after ``first`` seconds, then every ``then``."""
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        pause = first
        while not over.wait(pause):
            print(f"waiting for {what}, {time.monotonic() - began:.0f} s by now", file=sys.stderr, flush=True)
            pause = then

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        over.set()
