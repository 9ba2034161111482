"""Signals that ask a run to stop are noted, and the run stops where it loses nothing."""

import math
import signal
import sys
import time
from types import FrameType
from typing import Self

STOPS = (signal.SIGINT, signal.SIGTERM)
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a cluster sends some time before it ends a job (sbatch --signal)."""


class StopSignals:
    """Catches signals to this process within the block; a second SIGINT raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.requested = False
        self.warned = False  # by a cluster: time is nearly up
        self.last = -math.inf

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self.note) for number in (*STOPS, *WARNINGS)}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Signal handler.

        A launcher forwards signals that the terminal has already sent, so two within a second count as one. A cluster
        may send SIGTERM repeatedly before it kills; only a second SIGINT cuts the checkpoint short.
        """
        self.warned |= number in WARNINGS
        now = time.monotonic()
        if now - self.last < 1:
            return
        if not self.requested:
            name = signal.Signals(number).name
            print(f"{name}: stopping after this step or evaluation; Ctrl-C once more stops at once", file=sys.stderr)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.last = True, now
