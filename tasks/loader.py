"""Reading windows of row groups ahead of whoever needs them, in a thread.

Row groups are read and decoded in the order in which they are needed, while the rows of the window
before are cut into batches. A window and what is read of the next one are in memory.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Final, Protocol

from storage.order import Window
from storage.rows import Rows, gather, take
from tasks.background import Ahead
from tasks.sources import Source

_PIECES: Final = 8
"""Of a window: small enough for memory to be used again, and for the processor's cache."""


class Loader(Protocol):
    """Gives the rows of windows."""

    def rows(self, windows: Iterable[Window]) -> Generator[Rows]:
        """The rows of all windows, in their order; after half of them, `close` is needed."""

    def close(self) -> None:
        """End whatever still runs for it; it can be used again."""


class ThreadLoader:
    """Reads in a thread of this process, while there is something to read."""

    def __init__(self, source: Source, window: int) -> None:
        """Read ahead of what is needed by `window` row groups at most."""
        self._source = source
        self._window = window

    def rows(self, windows: Iterable[Window]) -> Generator[Rows]:
        """The rows of all windows, in their order."""
        with Ahead(self._groups(windows), self._window, "softlabel-read") as groups:
            parts: list[Rows] = []
            for window, rows in groups:
                parts.append(rows)
                if len(parts) == len(window.groups):
                    order = window.among_chosen()
                    yield from gather(parts, order, -(-len(order) // _PIECES))
                    parts = []

    def close(self) -> None:
        """Nothing runs when nothing is read."""

    def _groups(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Rows]]:
        reader = WindowReader(self._source)
        for window in windows:
            for rows in reader.read(window):
                yield window, rows


class WindowReader:
    """Reads the row groups of windows; those of which more may come in the next one are kept."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: dict[int, Rows] = {}

    def read(self, window: Window) -> Iterator[Rows]:
        """The rows of a window as they are stored, row group by row group."""
        known, self._kept = self._kept, {}
        for group, size, chosen in zip(window.groups, window.sizes, window.chosen(), strict=True):
            rows = known.pop(group) if group in known else self._source.read(group)
            if group in window.again:
                self._kept[group] = rows
            yield rows if len(chosen) == size else take(rows, chosen)
