"""Training in several processes, on PyTorch's own launcher: started, watched and explained here.

Each process is a rank of `tasks.training_rank`. When one of them fails, dies or hangs, all end, and
one line says which and why. What may pass by itself is tried again; training then goes on from its
newest checkpoint. Nothing is left running, and signals mean what they meant before.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from storage.errors import ModelError, one_line
from tasks.rank_watch import GRACE_SECONDS, LostRankError, RankWatch
from tasks.rendezvous_options import RendezvousOptions
from tasks.training_rank import Orders, Training, run_rank

_LOGGERS: Final = ("torch.distributed.elastic", "torch.multiprocessing")
_LEVEL: Final = "TORCH_CPP_LOG_LEVEL"
_PAUSE_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Group:
    """The processes of this machine, and how they find those of others.

    Attributes:
        name: what is trained, the same on all machines: the fingerprint.
        where: the field of the recipe, for messages.
        devices: the device of each process of this machine.
        rendezvous: where several machines meet; None for this one alone.
        wait_seconds: how long a rank waits for the others.
        tries: how often training is begun or gone on with, before it fails.
    """

    name: str
    where: str
    devices: list[torch.device]
    rendezvous: RendezvousOptions | None = None
    wait_seconds: float = 1800.0
    tries: int = 1


def train_together(training: Training, group: Group, tell: Callable[[str], None]) -> None:
    """Train in several processes.

    Args:
        training: what each of them does.
        group: how many, and where.
        tell: hears in one line when training is tried again, and why.

    Raises:
        SoftlabelError: as it was raised in a rank.
        ModelError: a process died or hung, or the other machines did not come.
    """
    left = group.tries
    while True:
        left -= 1
        try:
            _try(training, group)
        except LostRankError as error:
            if left <= 0:
                raise
            tell(f"{error}; trying again from the newest checkpoint")
        else:
            return


def _try(training: Training, group: Group) -> None:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in group.devices]
    orders = Orders(
        training=training,
        devices=group.devices,
        connections=[theirs for _, theirs in pipes],
        threads=max(1, torch.get_num_threads() // len(group.devices)),
        wait_seconds=group.wait_seconds,
    )
    with _quiet(), RankWatch([ours for ours, _ in pipes], group.where) as watch:
        try:
            _launch(group, orders, watch)
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            raise watch.cause(codes) from None
        except (RendezvousError, torch.distributed.DistError) as error:
            if watch.started:
                raise watch.cause({}) from error
            raise _not_met(group, error) from error


def _launch(group: Group, orders: Orders, watch: RankWatch) -> None:
    """Start the processes and wait for their end.

    After a failure other machines may still be about to leave the meeting: that is waited for.
    """
    deadline = time.monotonic() + group.wait_seconds
    while True:
        try:
            elastic_launch(_config(group), run_rank)(orders)
        except Exception as error:
            if not _left_behind(error) or watch.started or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _left_behind(error: Exception) -> bool:
    """Whether a meeting was joined that others are about to leave.

    It is closed, its host is gone, or the launcher's agent has no result, on which the launcher
    stumbles.
    """
    if isinstance(error, AttributeError):
        return error.name == "is_failed" and error.obj is None
    return isinstance(error, RendezvousClosedError | RendezvousConnectionError)


def _config(group: Group) -> LaunchConfig:
    meeting = group.rendezvous
    machines = 1 if meeting is None else meeting.machines
    endpoint = "localhost:0" if meeting is None else meeting.endpoint
    here = endpoint.startswith(("localhost:", "127."))
    wait_seconds = max(1, int(group.wait_seconds))
    return LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=len(group.devices),
        run_id=group.name,
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"join_timeout": wait_seconds, "read_timeout": wait_seconds},
        local_addr="localhost" if here else None,
        max_restarts=0,  # what failed for good need not be tried again: see `train_together`
        signals_to_handle="",  # Ctrl-C and Prefect's cancelling reach this process as ever
        shutdown_timeout=int(GRACE_SECONDS),
    )


def _not_met(group: Group, error: BaseException) -> ModelError:
    meeting = group.rendezvous
    if meeting is None:
        return ModelError(f"{group.where}: the processes do not find each other: {one_line(error)}")
    return ModelError(
        f"{group.where}: expected {meeting.machines} machines at {meeting.endpoint} within "
        f"{group.wait_seconds:g} s: {one_line(error)}; run the same command on each of them, and "
        "let them reach that port"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The launcher's and torch's own words stay unsaid: what failed is raised in one line."""
    silent = logging.NullHandler()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.propagate for logger in loggers]
    level = os.environ.get(_LEVEL)
    os.environ.setdefault(_LEVEL, "ERROR")  # for the processes: they look before they do anything
    for logger in loggers:
        logger.addHandler(silent)
        logger.propagate = False
    try:
        yield
    finally:
        if level is None:
            del os.environ[_LEVEL]
        for logger, propagated in zip(loggers, before, strict=True):
            logger.removeHandler(silent)
            logger.propagate = propagated
