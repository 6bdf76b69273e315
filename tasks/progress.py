"""Progress of long work, told to whoever listens: the terminal, the Prefect UI.

Work says how far it is; it does not know who looks.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

_numbers = itertools.count()
_listeners: list[Callable[[Progress], None]] = []


@dataclass(frozen=True)
class Progress:
    """Where a piece of work stands.

    Attributes:
        number: tells pieces of work apart.
        title: what is done.
        unit: what is counted.
        total: how many there are.
        done: how many of them are done.
        note: what else is worth saying, such as the loss.
        seconds: since it began.
        ended: whether it is over, for good or bad.
    """

    number: int
    title: str
    unit: str
    total: int
    done: int = 0
    note: str = ""
    seconds: float = 0.0
    ended: bool = False

    @property
    def per_second(self) -> float:
        """Units done in a second, so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


@dataclass
class Tracker:
    """What a piece of work tells its progress to."""

    progress: Progress
    _start: float = field(default_factory=time.monotonic)

    def advance(self, count: int, note: str = "") -> None:
        """Another `count` units are done."""
        self._tell(done=self.progress.done + count, note=note or self.progress.note)

    def end(self) -> None:
        """The work is over."""
        self._tell(ended=True)

    def _tell(self, **changes: int | str | bool) -> None:
        seconds = time.monotonic() - self._start
        self.progress = replace(self.progress, seconds=seconds, **changes)  # type: ignore[arg-type]
        for listener in tuple(_listeners):
            listener(self.progress)


@contextlib.contextmanager
def track(title: str, total: int, unit: str) -> Iterator[Tracker]:
    """Follow a piece of work of `total` units."""
    tracker = Tracker(Progress(next(_numbers), title, unit, total))
    tracker.advance(0)
    try:
        yield tracker
    finally:
        tracker.end()


@contextlib.contextmanager
def listening(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Call `listener` at each step of any work, from the thread that does it."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
