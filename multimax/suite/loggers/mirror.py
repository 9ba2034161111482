"""The interface of a logger, and what keeps one up to date with a run.

A logger reads only the run's files. It follows ``metrics.jsonl``: steps that it missed, because the run was killed or
the network was down, are shown at the next start, and steps that it has shown are skipped when a resumed run repeats
them (with the same numbers, because a resumed run equals the uninterrupted one).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from multimax.suite.engine.console import say
from multimax.suite.engine.observation import Observer
from multimax.suite.runs import Run, Samples

Outcome = Literal["finished", "interrupted", "failed"]


class Mirror(ABC):
    """Shows one run somewhere."""

    @abstractmethod
    def open(self) -> int:
        """Begin, and return the last step that is already shown, -1 if there is none."""

    @abstractmethod
    def show(self, step: int, values: dict[str, Any], samples: Samples | None) -> None:
        """Show all that was logged of ``step``. Steps come in order, each once."""

    @abstractmethod
    def close(self, outcome: Outcome) -> None:
        """End within seconds, with the run's summary if there is one."""


class Follower(Observer):
    """Keeps a mirror up to date with its run. A mirror that fails is dropped, and the run continues without it.

    Its context is the training, in which ``metrics.jsonl`` only grows.
    """

    def __init__(self, mirror: Mirror, run: Run):
        self.mirror: Mirror | None = mirror
        self.run = run
        self.offset = 0
        self.shown = -1

    def __enter__(self) -> "Follower":
        """Show what the files hold so far."""
        with self.dropped_if_it_fails() as mirror:
            self.shown = mirror.open() if mirror else -1
        self.update()
        return self

    def update(self) -> None:
        """Show the steps that are new in the files. To be called when all of a step has been logged."""
        with self.dropped_if_it_fails() as mirror:
            for step, values, end in self.run.rows(self.offset):
                if mirror and step > self.shown:
                    mirror.show(step, values, self.run.samples(step))
                    self.shown = step
                self.offset = end

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        outcome: Outcome = "finished"
        if kind is None:
            self.update()  # a run of no steps has been evaluated after all
        else:
            outcome = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        with self.dropped_if_it_fails() as mirror:
            if mirror:
                mirror.close(outcome)

    @contextmanager
    def dropped_if_it_fails(self) -> Iterator[Mirror | None]:
        try:
            yield self.mirror
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else ""
            say(f"logger: gave up, the run continues ({type(error).__name__}: {reason}); its files have everything")
            self.mirror = None
