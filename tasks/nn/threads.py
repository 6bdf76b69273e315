"""Threads that each compute a part of the rows, every torch operation on one thread.

Rows that stay in one core's cache from operation to operation are the faster way to many short
operations: torch's own threads would meet at the end of each, and divide a row's sum by how many
they are. Here a row is computed by one thread, so its bits do not depend on their number.

Shape letters: P positions, C classes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")
_DEVICE_ELEMENTS = 1 << 24

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


def on_row_groups(
    work: Callable[[slice, Tensor], None],
    logit_PC: Tensor,
    scratch: Callable[[int], Tensor],
    cached_elements: int,
    small_elements: int,
) -> None:
    """Do `work` on groups of rows of logits; on the CPU on threads, each group in a core's cache.

    Args:
        work: gets a group, and scratch of as many rows.
        logit_PC: what is divided into groups.
        scratch: makes memory [..., rows, columns] for so many rows; once a thread.
        cached_elements: of a group on the CPU.
        small_elements: up to so many in all, one thread is quicker.
    """
    positions, classes = logit_PC.shape
    on_cpu = logit_PC.device.type == "cpu"
    size = max(1, (cached_elements if on_cpu else _DEVICE_ELEMENTS) // classes)
    size = min(size, positions)

    def run(starts: Iterator[int]) -> None:
        start = next(starts, None)
        if start is None:
            return
        memory = scratch(size)
        while start is not None:
            stop = min(start + size, positions)
            work(slice(start, stop), memory[..., : stop - start, :])
            start = next(starts, None)

    starts = range(0, positions, max(size, 1))
    if on_cpu and logit_PC.numel() > small_elements:
        on_threads(run, starts)
    else:
        with torch.autocast(logit_PC.device.type, enabled=False):
            run(iter(starts))


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
