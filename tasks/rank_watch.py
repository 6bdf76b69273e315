"""What is known of the training processes of this machine: how far they are, and why one failed.

A thread listens to them while PyTorch's launcher waits for their end. Once one has failed, the
others get a moment to fail as well, since they say what they lost, and are killed then.
"""

from __future__ import annotations

import contextvars
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Final, Self

from storage.errors import ModelError, one_line
from tasks.children import exit_words
from tasks.progress import Progress, relaying
from tasks.training_rank import FAILED, PROGRESS, STARTED, Failure

_POLL_SECONDS: Final = 0.2
GRACE_SECONDS: Final = 2.0
"""How long the others have after a failure."""


class LostRankError(ModelError):
    """A training process died or hung: trying again may help."""


class RankWatch:
    """Listens to the ranks of this machine.

    As a context manager: at its end no process that was started meanwhile is left.
    """

    def __init__(self, connections: Sequence[Connection], where: str) -> None:
        """Listen to `connections`, one for each process; `where` begins messages."""
        self._connections = list(connections)
        self._where = where
        self._failures: list[Failure] = []
        self._processes: dict[int, BaseProcess] = {}
        self._killed: set[int] = set()
        self._failed_at: float | None = None
        self._raised: BaseException | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._before = set(multiprocessing.active_children())
        # Who listens to progress may look at the context: Prefect keeps its run there.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._listen,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        for process in set(multiprocessing.active_children()) - self._before:
            process.kill()
            process.join()

    @property
    def started(self) -> bool:
        """Whether any rank has begun."""
        return bool(self._processes)

    def cause(self, codes: Mapping[int, int]) -> BaseException:
        """Why the ranks failed: what one of them said, or how one ended without a word.

        Where a listener to progress raised something, that ended the ranks, and it is the cause.

        Args:
            codes: exit codes that the launcher knows, by rank.
        """
        self._stop()
        if self._raised is not None:
            return self._raised
        failures = sorted(self._failures, key=lambda failure: failure.when)
        own = next((failure.error for failure in failures if not failure.lost), None)
        if own is not None:
            return own
        died = self._died(codes)
        if died:
            return LostRankError(f"{self._where}: {died}; look at what it printed")
        silent = sorted(set(self._processes) - {failure.rank for failure in failures})
        whose = f"rank {silent[0]}" if silent else "a rank on another machine"
        said = f" ({one_line(failures[0].error)})" if failures else ""
        return LostRankError(
            f"{self._where}: {whose} gave no sign or has ended{said}; look at what it printed, or "
            "raise execution.wait_seconds"
        )

    def _died(self, codes: Mapping[int, int]) -> str | None:
        """The first rank that ended by itself without a word."""
        found = dict(codes)
        for rank, process in self._processes.items():
            if process.exitcode is not None:
                found[rank] = process.exitcode
        told = {failure.rank for failure in self._failures}
        for rank, code in sorted(found.items()):
            if code not in (0, -signal.SIGTERM) and rank not in told | self._killed:
                return f"the process of rank {rank} {exit_words(code)}"
        return None

    def _stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _listen(self) -> None:
        try:
            with relaying() as tell:
                while not self._over.is_set():
                    self._hear(tell, _POLL_SECONDS)
                    self._end_survivors()
                self._hear(tell, 0.0)
        except BaseException as error:  # noqa: BLE001 - raised where the ranks were started
            self._raised = error
            self._kill()

    def _hear(self, tell: Callable[[Progress], None], seconds: float) -> None:
        """What is said within some time, and all that was said before."""
        if not self._connections:
            self._over.wait(seconds)
        while ready := wait(self._connections, seconds):
            for connection in ready:
                self._take(connection, tell)  # type: ignore[arg-type]
            seconds = 0.0

    def _take(self, connection: Connection, tell: Callable[[Progress], None]) -> None:
        try:
            name, content = connection.recv()
        except (EOFError, OSError):
            self._connections.remove(connection)
            return
        if name == PROGRESS:
            tell(content)
        elif name == FAILED:
            self._failures.append(content)
        elif name == STARTED:
            rank, pid = content
            for process in multiprocessing.active_children():
                if process.pid == pid:
                    self._processes[rank] = process

    def _end_survivors(self) -> None:
        ended = [process.exitcode for process in self._processes.values()]
        if self._failed_at is None and (self._failures or any(ended)):
            self._failed_at = time.monotonic()
        if self._failed_at is not None and time.monotonic() - self._failed_at > GRACE_SECONDS:
            self._kill()

    def _kill(self) -> None:
        for rank, process in self._processes.items():
            if process.exitcode is None:
                self._killed.add(rank)
                process.kill()
