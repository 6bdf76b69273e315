"""Ranks that are threads of one process: what training asks of other processes, without any.

What `wrap` gives takes no mean, so gradients are right where training takes it itself: in the first
step, and wherever a part is larger than all before.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

_SECONDS = 60


class Meeting:
    """Where the threads leave what they say, and find what the others said."""

    def __init__(self, world: int) -> None:
        self.barrier = threading.Barrier(world)
        self.said: list[Any] = [None] * world

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.said[rank] = value
        self.barrier.wait(_SECONDS)
        found = list(self.said)
        self.barrier.wait(_SECONDS)
        return found


class Thread:
    """One of them."""

    def __init__(self, rank: int, world: int, meeting: Meeting) -> None:
        self.rank = rank
        self.world = world
        self._meeting = meeting

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def local(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self._meeting.exchange(self.rank, values)).sum(dim=0)

    def any(self, said: bool) -> bool:
        return any(self._meeting.exchange(self.rank, said))

    def gather(self, said: Sequence[str]) -> list[str]:
        return [entry for some in self._meeting.exchange(self.rank, said) for entry in some]


def together(world: int, work: Callable[[Thread], Any]) -> list[Any]:
    """What `work` gives, or raises, on each of the ranks."""
    meeting = Meeting(world)
    with ThreadPoolExecutor(world) as pool:
        tasks = [pool.submit(work, Thread(rank, world, meeting)) for rank in range(world)]
        return [task.exception() or task.result() for task in tasks]
