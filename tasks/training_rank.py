"""One of the processes that train a model together: PyTorch's launcher starts it here.

It meets the others, does its part, and tells the process that started it how far it is and what
failed. It ends with that process, however that one ends.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, Protocol

import torch

from storage.errors import ModelError, SoftlabelError
from tasks.children import end_with_parent, sendable
from tasks.nn.distributed import backend_of, joined, lost_another
from tasks.nn.ranks import Ranks
from tasks.progress import Progress, listening

_TELL_SECONDS: Final = 0.2
STARTED, PROGRESS, FAILED = "started", "progress", "failed"


class Training(Protocol):
    """Trains on a device, as one of the ranks, and can be sent to a process.

    Rank 0 keeps what comes of it; what is returned is not sent back.
    """

    def __call__(self, *, device: torch.device, ranks: Ranks) -> object:
        """Train to the end."""


@dataclass(frozen=True)
class Orders:
    """What the processes of one machine are told.

    Attributes:
        training: what is trained.
        devices: the device of each process of this machine.
        connections: where each says how far it is.
        threads: of each process on the CPU.
        wait_seconds: how long a rank waits for the others.
    """

    training: Training
    devices: list[torch.device]
    connections: Sequence[Connection]
    threads: int
    wait_seconds: float


@dataclass(frozen=True)
class Failure:
    """Why a rank failed.

    Attributes:
        rank: among all machines.
        error: what is raised where the processes were started.
        when: in seconds, to compare on one machine.
        lost: whether it failed only because another rank did, or gave no sign.
    """

    rank: int
    error: SoftlabelError
    when: float
    lost: bool


def run_rank(orders: Orders) -> None:
    """Do one rank's part; the environment says which, and where the others are."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, and has nothing to say
    end_with_parent()
    torch.set_num_threads(orders.threads)
    rank, place = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    say = orders.connections[place].send
    device = orders.devices[place]
    say((STARTED, (rank, os.getpid())))
    try:
        with (
            listening(_teller(say) if rank == 0 else _silent),
            joined(device, backend_of(orders.devices), orders.wait_seconds) as ranks,
        ):
            orders.training(device=device, ranks=ranks)
            ranks.any(said=False)  # nobody leaves before rank 0 has kept what came of it
    except BaseException as error:  # noqa: BLE001 - said to the parent, which raises it
        lost = lost_another(error)
        words = sendable(error, ModelError, f"the process of rank {rank}")
        say((FAILED, Failure(rank, words, time.monotonic(), lost)))
        os._exit(1)  # the launcher would print what is said already


def _teller(say: Callable[[Any], None]) -> Callable[[Progress], None]:
    """Says how far work is: its begin, its end, and a few times a second between them."""
    told: dict[int, float] = {}

    def tell(progress: Progress) -> None:
        now = time.monotonic()
        if progress.ended or now - told.get(progress.number, 0.0) >= _TELL_SECONDS:
            told[progress.number] = now
            say((PROGRESS, progress))

    return tell


def _silent(progress: Progress) -> None:
    del progress
