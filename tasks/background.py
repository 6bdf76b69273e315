"""Steps that overlap: an iterator that is run ahead, and work that is done behind.

Both keep a bounded number of things, pass on whatever goes wrong, and leave no thread behind.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

_POLL_SECONDS: Final = 0.05
Item = TypeVar("Item")
Result = TypeVar("Result")


class Ahead(Generic[Item]):
    """Runs an iterable in a thread, so that its next items are there when they are asked for.

    As a context manager: at its end the thread has ended, and the iterable stands where it stood.
    """

    def __init__(self, items: Iterable[Item], most: int, name: str) -> None:
        """Run `items` ahead by at most `most` of them; `name` is the thread's."""
        self._queue: queue.Queue[Item | _End] = queue.Queue(most)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items,), name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)

    def __iter__(self) -> Iterator[Item]:
        """The items; what the iterable raises is raised here, after the items before it."""
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def _run(self, items: Iterable[Item]) -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not self._put(item):
                    return
        except BaseException as raised:  # noqa: BLE001 - raised again by whoever reads
            error = raised
        self._put(_End(error))

    def _put(self, item: Item | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False


class Behind(Generic[Item, Result]):
    """Does work in a thread, one item after the other, while the caller goes on.

    As a context manager: at its end all that was given is done; after an error in the work, what
    was given later is left undone.
    """

    def __init__(self, work: Callable[[Item], Result], most: int, name: str) -> None:
        """Do `work` on each item; at most `most` of them wait; `name` is the thread's."""
        self._work = work
        self._todo: queue.Queue[Item | _End] = queue.Queue(most)
        self._done: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._todo.put(_End(None))
        self._thread.join()

    def put(self, item: Item) -> None:
        """Have an item worked on; waits while too many do.

        Raises:
            BaseException: whatever the work on an item before raised.
        """
        self._raise()
        self._todo.put(item)

    def finish(self) -> None:
        """Wait until all that was given is done.

        Raises:
            BaseException: whatever the work raised.
        """
        self._todo.put(_End(None))
        self._thread.join()
        self._raise()

    def flush(self) -> None:
        """Wait until all that was given is done; more may be given after it.

        Raises:
            BaseException: whatever the work raised.
        """
        self._todo.join()
        self._raise()

    def results(self) -> Iterator[Result]:
        """What is done by now and was not given out yet, in order."""
        while not self._done.empty():
            yield self._done.get()

    def _run(self) -> None:
        while True:
            item = self._todo.get()
            if isinstance(item, _End):
                return
            try:
                if self._error is None:
                    self._done.put(self._work(item))
            except BaseException as raised:  # noqa: BLE001 - raised again by whoever gives more
                self._error = raised
            finally:
                self._todo.task_done()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class _End:
    """The last thing in a queue, with what went wrong before it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
