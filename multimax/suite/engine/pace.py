"""How fast training currently is, and how much of the time it spends waiting for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from multimax.suite.errors import UserError

T = TypeVar("T")


class Pace:
    """Times the steps between two logged ones, excluding evaluations and checkpoints.

    ``weight`` is how much the run has trained on so far, in examples or tokens over all processes.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.since, self.waited = time.perf_counter(), 0.0

    def next(self, batches: Iterator[T]) -> T:
        """The next of ``batches``, timing the wait. Raises UserError if there is none."""
        started = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            raise UserError("train_batches() of the task has ended: it has to go on without end") from None
        self.waited += time.perf_counter() - started
        return batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.since += time.perf_counter() - started

    def lap(self, weight: float, unit: str) -> dict[str, float]:
        """Throughput and the share of time spent waiting for data, in [0, 1], since the last lap; begins the next.

        The device must have finished its work, which reading a metric from it ensures.
        """
        seconds = time.perf_counter() - self.since
        found = {
            f"{unit}_per_second_now": (weight - self.weight) / seconds,
            "data_wait": self.waited / seconds,
        }
        self.__init__(weight)  # type: ignore[misc]
        return found
