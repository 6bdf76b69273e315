"""Threads that each compute a part of the rows, every torch operation on one thread.

Rows that stay in one core's cache from operation to operation are the faster way to many short
operations: torch's own threads would meet at the end of each, and divide a row's sum by how many
they are. Here a row is computed by one thread, so its bits do not depend on their number.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")

_lock = threading.Lock()
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def on_threads(work: Callable[[Part], None], parts: Sequence[Part]) -> None:
    """Do `work` on each part, on as many threads as torch may use here.

    Raises:
        Exception: the first that `work` raised.
    """
    threads = torch.get_num_threads()
    for _ in _pool(threads).map(_in_inference_mode(work), parts):
        pass


def _in_inference_mode(work: Callable[[Part], None]) -> Callable[[Part], None]:
    """The mode belongs to a thread."""

    def run(part: Part) -> None:
        with torch.inference_mode():
            work(part)

    return run


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
