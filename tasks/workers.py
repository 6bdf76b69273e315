"""Label shards in processes of their own: one for each device, each with a deadline.

A process loads the teacher once and makes one shard after another. One that gives no sign within
the deadline, or dies, is killed and started again, and what it had not committed is made again.
Shards commit by themselves, so nothing of theirs is lost, and none is made in half.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Final, Self

import torch

from storage.errors import ModelError
from storage.records import ShardRecord
from storage.writer import ShardPlan
from tasks.children import end_with_parent, how_it_ended, sendable
from tasks.effort import Effort
from tasks.labeller import LabelRequest, Probe

_POLL_SECONDS: Final = 0.5
_PROBE_BATCHES: Final = 4
"""Before the first shard a few batches are labelled; so many deadlines are waited for."""
_AHEAD: Final = 2
"""Shards that a process may have taken: the one it makes, and the next one that it reads."""
_READY, _PROBED, _NEXT, _BEAT, _MADE, _FAILED = (
    "ready", "probed", "next", "beat", "made", "failed",
)  # fmt: skip


@dataclass
class _Worker:
    """A process, what it has taken and not committed, and when it last gave a sign."""

    request: LabelRequest
    process: SpawnProcess
    connection: Connection
    taken: deque[ShardPlan] = field(default_factory=deque)
    waiting: bool = False
    ready: bool = False
    seen: float = field(default_factory=time.monotonic)


class Workers:
    """Processes that make shards, as a `Labeller` does in this one.

    As a context manager: at its end no process is left.
    """

    def __init__(
        self, requests: Iterable[LabelRequest], deadline_seconds: float | None, tries: int
    ) -> None:
        """Start the processes.

        Args:
            requests: what each process is to do.
            deadline_seconds: the longest time for one batch of the teacher; None for no limit.
            tries: how often a shard is tried before the run fails.
        """
        self._deadline = deadline_seconds
        self._tries = tries
        self._failures: Counter[ShardPlan | None] = Counter()
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start(request) for request in requests]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            _end(worker)

    def probe(self, plans: Sequence[ShardPlan], batch_size: int | None) -> Probe:
        """What `Labeller.probe` finds, in the first of the processes.

        Raises:
            ModelError: the process died.
            SoftlabelError: whatever the teacher cannot do.
        """
        longest = None if self._deadline is None else _PROBE_BATCHES * self._deadline
        while True:
            worker = self._workers[0]
            if worker.ready and not worker.connection.poll(longest):
                self._restart(worker, f"gave no sign for {longest:g} s")
                continue
            try:
                name, content = worker.connection.recv()
            except (EOFError, OSError):
                self._restart(worker, None)
                continue
            if name == _FAILED:
                raise content
            if name == _READY:
                worker.ready = worker.waiting = True
                _send(worker, (plans, batch_size))
            elif name == _PROBED:
                return content  # type: ignore[no-any-return]

    def label(
        self,
        plans: Iterable[ShardPlan],
        batch_size: int,
        on_shard: Callable[[ShardRecord], None],
        effort: Effort,
        on_batch: Callable[[int], None],
    ) -> tuple[ShardRecord, ...]:
        """Make some shards; the arguments are those of `tasks.label.label_shards`.

        Raises:
            ModelError: a process died or hung more often than a shard is tried.
            SoftlabelError: whatever made a shard impossible.
        """
        for worker in list(self._workers):
            if worker.taken:  # of a try that failed: the caller gives these again
                self._replace(worker)
        source = iter(plans)
        again: deque[ShardPlan] = deque()
        records: list[ShardRecord] = []
        ended = False

        def next_plan() -> ShardPlan | None:
            nonlocal ended
            if again:
                return again.popleft()
            plan = None if ended else next(source, None)
            ended = ended or plan is None
            return plan

        def feed() -> None:
            for worker in self._workers:
                while worker.waiting and len(worker.taken) < _AHEAD:
                    plan = next_plan()
                    if plan is None:
                        break
                    worker.taken.append(plan)
                    worker.waiting = False
                    worker.seen = time.monotonic()
                    _send(worker, (plan, batch_size))

        feed()
        while again or not ended or any(worker.taken for worker in self._workers):
            for worker, message in self._messages():
                if message is None:
                    again.extend(self._restart(worker, None))
                    continue
                name, content = message
                worker.seen = time.monotonic()
                if name in (_READY, _NEXT):
                    worker.ready = worker.waiting = True
                elif name == _BEAT:
                    on_batch(content)
                elif name == _FAILED:
                    raise content
                elif name == _MADE:
                    record, spent = content
                    worker.taken.popleft()
                    effort.merge(spent)
                    records.append(record)
                    on_shard(record)
            again.extend(self._restart_hung())
            feed()
        return tuple(records)

    def _messages(self) -> Iterator[tuple[_Worker, tuple[str, Any] | None]]:
        """What processes say within a short while; nothing from one that has died."""
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), _POLL_SECONDS):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                yield worker, worker.connection.recv()
            except (EOFError, OSError):
                yield worker, None

    def _restart_hung(self) -> list[ShardPlan]:
        if self._deadline is None:
            return []
        now = time.monotonic()
        return [
            plan
            for worker in list(self._workers)
            if worker.ready and worker.taken and now - worker.seen > self._deadline
            for plan in self._restart(worker, f"gave no sign for {self._deadline:g} s")
        ]

    def _restart(self, worker: _Worker, why: str | None) -> list[ShardPlan]:
        """Kill a process and start it again; returns what it had not committed."""
        _end(worker)
        left = list(worker.taken)
        self._count_failure(left[0] if left else None, worker, why or how_it_ended(worker.process))
        self._replace(worker)
        return left

    def _count_failure(self, plan: ShardPlan | None, worker: _Worker, why: str) -> None:
        """Another failure at a shard, or before the first one.

        Raises:
            ModelError: that was one too many.
        """
        self._failures[plan] += 1
        if worker.ready and self._failures[plan] < self._tries:
            return
        times = f" {self._failures[plan]} times" if worker.ready else ""
        where = (
            "while it was loaded"
            if not worker.ready
            else "before the first shard"
            if plan is None
            else f"at shard {plan.ordinal} of {plan.split} (samples {plan.start} to "
            f"{plan.start + plan.rows - 1})"
        )
        raise ModelError(
            f"teacher: its process {why}{times} {where}; look at what it printed and at these "
            "samples, lower labels.batch_size, or raise execution.deadline_seconds"
        )

    def _replace(self, worker: _Worker) -> None:
        _end(worker)
        self._workers[self._workers.index(worker)] = self._start(worker.request)

    def _start(self, request: LabelRequest) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_run, args=(theirs, request, list(sys.path)), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(request, process, ours)


def threads_of(devices: Sequence[torch.device]) -> int | None:
    """Threads of each process, where several share the CPU; None leaves them as they are."""
    if len(devices) == 1 or devices[0].type != "cpu":
        return None
    return max(1, torch.get_num_threads() // len(devices))


def _send(worker: _Worker, content: tuple[Any, int | None]) -> None:
    with contextlib.suppress(OSError):  # it died: that is seen when it is listened to
        worker.connection.send(content)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    if not worker.connection.closed:
        worker.connection.close()


def _run(connection: Connection, request: LabelRequest, paths: list[str]) -> None:
    """The child: take shards until the parent ends it, and say what became of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    sys.path[:] = paths
    end_with_parent()
    lock = threading.Lock()
    spent = Effort()

    def say(name: str, content: Any = None) -> None:
        with lock:
            connection.send((name, content))

    def plans(first: ShardPlan) -> Iterator[ShardPlan | None]:
        yield first
        while True:
            say(_NEXT)
            if not connection.poll(_POLL_SECONDS):
                yield None
            yield connection.recv()[0]

    try:
        labeller = request.open()
        say(_READY)
        asked, batch_size = connection.recv()
        if not isinstance(asked, ShardPlan):
            say(_PROBED, labeller.probe(asked, batch_size))
            asked, batch_size = connection.recv()
        labeller.label(
            plans(asked),
            batch_size,
            lambda record: say(_MADE, (record, spent.take())),
            spent,
            lambda positions: say(_BEAT, positions),
            at_once=True,
        )
    except EOFError:
        return
    except BaseException as error:  # noqa: BLE001 - said to the parent, which raises it
        say(_FAILED, sendable(error, ModelError, "the process of the teacher"))
