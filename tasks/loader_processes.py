"""Reading windows of row groups in processes of their own.

Each process takes every n-th window, reads and decodes its row groups, puts the rows in order and
hands them over in shared memory; so the order of the windows is that in which they were asked for.
The processes are spawned, never forked: threads and polars would deadlock. They import no torch,
and end with the process that started them, however that one ends.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import weakref
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from storage.errors import StoreError, one_line
from storage.order import Window
from storage.rows import Rows, gather
from tasks.children import end_with_parent, how_it_ended, sendable
from tasks.loader import WindowReader
from tasks.passing import receive_rows, send_rows
from tasks.sources import Source

_AHEAD: Final = 2
"""Windows that a process may have taken: the one it reads, and one that waits or is handed over."""


@dataclass(frozen=True)
class _Child:
    process: SpawnProcess
    connection: Connection


class ProcessLoader:
    """Reads in processes that are started when they are needed, and stay for the next epoch."""

    def __init__(self, source: Source, workers: int) -> None:
        """Read in `workers` processes at most."""
        self._source = source
        self._workers = workers
        self._context = multiprocessing.get_context("spawn")
        self._children: list[_Child] = []
        weakref.finalize(self, _end, self._children)

    def rows(self, windows: Iterable[Window]) -> Generator[Rows]:
        """The rows of all windows, in their order; after half of them, `close` is needed.

        Raises:
            StoreError: a process died.
            SoftlabelError: whatever it could not read.
        """
        following = iter(windows)
        turn = itertools.cycle(range(self._workers))
        asked: deque[_Child] = deque()
        for window in itertools.islice(following, _AHEAD * self._workers):
            asked.append(self._ask(next(turn), window))
        while asked:
            rows = _receive(asked.popleft())
            for window in itertools.islice(following, 1):
                asked.append(self._ask(next(turn), window))
            yield rows

    def close(self) -> None:
        """End the processes."""
        _end(self._children)

    def _ask(self, place: int, window: Window) -> _Child:
        if place == len(self._children):
            self._children.append(self._start())
        child = self._children[place]
        with contextlib.suppress(OSError):  # it died: that is seen when it is listened to
            child.connection.send(window)
        return child

    def _start(self) -> _Child:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_run,
            args=(theirs, self._source, list(sys.path)),
            daemon=True,
            name="softlabel-loader",
        )
        try:
            process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise StoreError(
                f"the source of the stream cannot be sent to worker processes: {one_line(error)}; "
                "stream with workers=0"
            ) from error
        finally:
            theirs.close()
        return _Child(process, ours)


def _receive(child: _Child) -> Rows:
    try:
        said = child.connection.recv()
        if isinstance(said, list):
            return receive_rows(child.connection, said)
    except (EOFError, OSError) as error:
        child.process.join()
        raise StoreError(
            f"a process that reads the data {how_it_ended(child.process)}; look at what it "
            "printed, and run again with fewer workers if memory was short (a script that streams "
            'with workers starts below: if __name__ == "__main__")'
        ) from error
    raise said


def _end(children: list[_Child]) -> None:
    for child in children:
        child.process.kill()
    while children:
        child = children.pop()
        child.process.join()
        child.connection.close()


def _run(connection: Connection, source: Source, paths: list[str]) -> None:
    """The child: read one window after another until the parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    sys.path[:] = paths
    end_with_parent()
    reader = WindowReader(source)
    with contextlib.suppress(EOFError, OSError):
        while True:
            window = connection.recv()
            try:
                order = window.among_chosen()
                (rows,) = gather(list(reader.read(window)), order, len(order))
                send_rows(connection, rows, os.getppid())
            except BrokenPipeError:
                return
            except BaseException as error:  # noqa: BLE001 - said to the parent, which raises it
                connection.send(sendable(error, StoreError, "a process that reads the data"))
                return
