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
        before: how many were done when it began.
        finer: what a rate is told in instead of units; nothing by default.
        finer_done: how many of these were done since it began.
    """

    number: int
    title: str
    unit: str
    total: int
    done: int = 0
    note: str = ""
    seconds: float = 0.0
    ended: bool = False
    before: int = 0
    finer: str = ""
    finer_done: int = 0

    @property
    def per_second(self) -> float:
        """Units done in a second, or what is told instead of them, since it began."""
        done = self.finer_done if self.finer else self.done - self.before
        return done / self.seconds if self.seconds > 0 else 0.0

    @property
    def rate(self) -> str:
        """The same for people to read."""
        return f"{self.per_second:,.0f}{' ' * bool(self.finer)}{self.finer}/s"


@dataclass
class Tracker:
    """What a piece of work tells its progress to."""

    progress: Progress
    _start: float = field(default_factory=time.monotonic)

    def advance(self, count: int, note: str = "", finer: int = 0) -> None:
        """Another `count` units are done, and `finer` of what the rate is told in."""
        before = self.progress
        done, finer_done = before.done + count, before.finer_done + finer
        self._tell(done=done, note=note or before.note, finer_done=finer_done)

    def end(self) -> None:
        """The work is over."""
        self._tell(ended=True)

    def _tell(self, **changes: int | str | bool) -> None:
        seconds = time.monotonic() - self._start
        self.progress = replace(self.progress, seconds=seconds, **changes)  # type: ignore[arg-type]
        _tell_listeners(self.progress)


@contextlib.contextmanager
def track(title: str, total: int, unit: str, done: int = 0, finer: str = "") -> Iterator[Tracker]:
    """Follow a piece of work of `total` units, of which some may be done before.

    Args:
        title: what is done.
        total: how many units.
        unit: what they are.
        done: how many were done before.
        finer: what the rate is told in, where units are too coarse.
    """
    progress = Progress(next(_numbers), title, unit, total, done, before=done, finer=finer)
    tracker = Tracker(progress)
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


@contextlib.contextmanager
def relaying() -> Iterator[Callable[[Progress], None]]:
    """Tell here what work in another process says of itself; at the end all of it has ended."""
    known: dict[int, Progress] = {}

    def tell(progress: Progress) -> None:
        there = progress.number
        number = known[there].number if there in known else next(_numbers)
        known[there] = replace(progress, number=number)
        _tell_listeners(known[there])

    try:
        yield tell
    finally:
        for progress in known.values():
            if not progress.ended:
                _tell_listeners(replace(progress, ended=True))


def _tell_listeners(progress: Progress) -> None:
    for listener in tuple(_listeners):
        listener(progress)
