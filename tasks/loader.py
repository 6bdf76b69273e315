"""Reading windows of row groups ahead of whoever needs them, in a thread.

Row groups are read and decoded in the order in which they are needed, while the rows of the window
before are cut into batches. A window and what is read of the next one are in memory.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Protocol

from storage.order import Window
from storage.rows import Rows, gather, take
from tasks.background import Ahead
from tasks.sources import Source


class Loader(Protocol):
    """Gives the rows of windows."""

    def rows(self, windows: Iterable[Window]) -> Generator[Rows]:
        """The rows of each window, in their order; after half of them, `close` is needed."""

    def close(self) -> None:
        """End whatever still runs for it; it can be used again."""


class ThreadLoader:
    """Reads in a thread of this process, while there is something to read."""

    def __init__(self, source: Source, window: int) -> None:
        """Read ahead of what is needed by `window` row groups at most."""
        self._source = source
        self._window = window

    def rows(self, windows: Iterable[Window]) -> Generator[Rows]:
        """The rows of each window, in their order."""
        with Ahead(self._groups(windows), self._window, "softlabel-read") as groups:
            parts: list[Rows] = []
            for window, rows in groups:
                parts.append(rows)
                if len(parts) == len(window.groups):
                    yield gather(parts, window.among_chosen())
                    parts = []

    def close(self) -> None:
        """Nothing runs when nothing is read."""

    def _groups(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Rows]]:
        for window in windows:
            for rows in chosen_rows(self._source, window):
                yield window, rows


def chosen_rows(source: Source, window: Window) -> Iterator[Rows]:
    """The rows of a window as they are stored, row group by row group."""
    for group, size, chosen in zip(window.groups, window.sizes, window.chosen(), strict=True):
        rows = source.read(group)
        yield rows if len(chosen) == size else take(rows, chosen)
