"""Threads that each compute a part of the rows, every torch operation on one thread.

Rows that stay in one core's cache from operation to operation are the faster way to many short
operations: torch's own threads would meet at the end of each, and divide a row's sum by how many
they are. Here a row is computed by one thread, so its bits do not depend on their number.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Part = TypeVar("Part")

_lock = threading.Lock()
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def on_threads(work: Callable[[Iterator[Part]], None], parts: Iterable[Part]) -> None:
    """Do `work` on as many threads as torch may use here; they share the parts among them.

    Args:
        work: called once on each thread, with an iterator of the parts that fall to it.
        parts: each goes to one thread, whichever asks next.

    Raises:
        Exception: the first that `work` raised.
    """
    threads = torch.get_num_threads()
    shared = _Shared(iter(parts))
    inference = torch.is_inference_mode_enabled()

    def run() -> None:
        with torch.inference_mode(inference), torch.no_grad():  # modes belong to a thread
            work(shared)

    running = [_pool(threads).submit(run) for _ in range(threads)]
    wait(running)
    for thread in running:
        thread.result()


class _Shared(Iterator[Part]):
    """An iterator that several threads may ask."""

    def __init__(self, parts: Iterator[Part]) -> None:
        self._parts = parts
        self._lock = threading.Lock()

    def __next__(self) -> Part:
        with self._lock:
            return next(self._parts)


def _pool(threads: int) -> ThreadPoolExecutor:
    """The workers of this process: a fork has none of its parent's threads."""
    key = (os.getpid(), threads)
    with _lock:
        if key not in _pools:
            _pools[key] = _started(threads)
        return _pools[key]


def _started(threads: int) -> ThreadPoolExecutor:
    """Workers that have all started.

    A thread's first use of torch sets its number of threads to the process's, so that is done
    first. The number that a worker sets for itself becomes the process's too, until put back.
    """
    met = threading.Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)
        met.wait()

    pool = ThreadPoolExecutor(threads, "softlabel-rows", initializer=start)
    for _ in range(threads):
        pool.submit(int)
    met.wait()
    torch.set_num_threads(threads)
    return pool
