"""Leases: who is making which shard just now, so that processes share the work of one label set.

A lease is a small file that only one process can create. Its holder writes it anew each quarter of
its time to live and deletes it when the work is committed. A lease ends

- when it has not changed for its time to live by the clock of the one who looks: nobody's clock is
  compared with another's;
- at once, when its holder ran on this very machine, in the same space of process ids, and is gone.
  So what was killed and started again does not wait. Where there is no `/proc`, time has to pass.

Leases save work and guard nothing: they do not have to. A shard's name holds its content, and its
record is what commits it. A holder that stands still for longer than its time to live, or two that
take over an ended lease at the same moment, at worst make a shard twice; none is lost or spoilt.

Costs one conditional write and one delete a unit, a write each quarter of the time to live, and a
read for each unit that somebody else holds. Nothing is listed.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Annotated, Final, Self

from pydantic import Field

from storage import layout, processes
from storage.errors import IntegrityError, StoreError
from storage.files import Folder
from storage.processes import Process
from storage.records import Count, parse, seal, unseal
from storage.spec import StoredModel

TTL_SECONDS: Final = 60.0
_LONGEST_TTL_SECONDS: Final = 3600.0
_RENEWALS: Final = 4


class LeaseState(StrEnum):
    """Whose a unit is."""

    FREE = "free"
    OURS = "ours"
    HELD = "held"
    EXPIRED = "expired"


class Lease(StoredModel):
    """What stands in a lease.

    Attributes:
        owner: a random name of the `Leases` that holds it.
        process: that of the holder, where it can be told from all others.
        renewals: how often it was written anew; what makes it change.
        written: when, by the holder's clock; for people to read.
        ttl_seconds: how long it holds unchanged.
    """

    owner: str
    process: Process | None
    renewals: Count
    written: float
    ttl_seconds: Annotated[float, Field(gt=0, le=_LONGEST_TTL_SECONDS)]


@dataclass
class _Hold:
    """A lease of this process: how often it was renewed, and the thread that works on the unit."""

    renewals: int
    thread: int


@dataclass(frozen=True)
class _Sight:
    """A lease of somebody else: what it said, and since when by this process's clock."""

    content: bytes
    since: float


class Leases:
    """The leases that this process holds on the units of one label set.

    As a context manager: at its end all that it holds is free again, and the thread that renews
    them is gone. Safe to use from several threads; each `Leases` is an owner of its own.
    """

    def __init__(
        self,
        folder: Folder,
        ttl_seconds: float = TTL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Lease units of the label set at `folder`.

        Args:
            folder: the label set.
            ttl_seconds: how long a lease holds unchanged, up to an hour.
            clock: seconds that only grow.
        """
        self._folder = folder
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._process = processes.this()
        self._held: dict[str, _Hold] = {}
        self._seen: dict[str, _Sight] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for name in list(self._held):
            with contextlib.suppress(StoreError):  # it expires
                self.release(name)

    def claim(self, name: str) -> bool:
        """Take the unit `name`, unless somebody else works on it; an ended lease is taken over.

        Somebody else may be another thread. What this thread holds already, it may take again.

        Raises:
            StoreError: the store cannot be written.
        """
        hold = self._held.get(name)
        if hold is not None:
            return hold.thread == threading.get_ident()
        if self._create(name):
            return True
        if self.state(name) is not LeaseState.EXPIRED:
            return False
        ended = self._seen.get(name)
        # Whoever took it over since has written another content.
        if ended is not None and self._read(name) == ended.content:
            self._folder.delete(layout.lease(name))
        return self._create(name)

    def release(self, name: str) -> None:
        """Let go of a unit: its record is there, or it was given up."""
        with self._lock:
            if self._held.pop(name, None) is not None:
                self._folder.delete(layout.lease(name))

    def renew(self) -> None:
        """Write all leases that are held anew; a thread does so while there are any.

        One that cannot be written is left for the next time: if that fails too, it expires, and
        the work is at worst done twice.
        """
        for name in list(self._held):
            with self._lock, contextlib.suppress(StoreError):
                hold = self._held.get(name)
                if hold is not None:
                    hold.renewals += 1
                    self._folder.write_bytes(layout.lease(name), self._content(hold.renewals))

    def state(self, name: str) -> LeaseState:
        """Whose a unit is, by one read; what is held has to be looked at twice to have expired."""
        if name in self._held:
            return LeaseState.OURS
        content = self._read(name)
        if content is None:
            self._seen.pop(name, None)
            return LeaseState.FREE
        now = self._clock()
        sight = self._seen.get(name)
        if sight is None or sight.content != content:
            sight = self._seen[name] = _Sight(content, now)
        lease = self._parsed(content, name)
        if lease is not None and lease.process is not None and processes.is_gone(lease.process):
            return LeaseState.EXPIRED
        ttl_seconds = self._ttl_seconds if lease is None else lease.ttl_seconds
        return LeaseState.EXPIRED if now - sight.since >= ttl_seconds else LeaseState.HELD

    def _create(self, name: str) -> bool:
        if not self._folder.create(layout.lease(name), self._content(0)):
            return False
        with self._lock:
            self._held[name] = _Hold(0, threading.get_ident())
            self._seen.pop(name, None)
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)
                self._thread.start()
        return True

    def _keep(self) -> None:
        while not self._stop.wait(self._ttl_seconds / _RENEWALS):
            self.renew()

    def _content(self, renewals: int) -> bytes:
        lease = Lease(
            owner=self._owner,
            process=self._process,
            renewals=renewals,
            written=time.time(),
            ttl_seconds=self._ttl_seconds,
        )
        return seal(lease.model_dump(mode="json"))

    def _read(self, name: str) -> bytes | None:
        path = layout.lease(name)
        return self._folder.read_many([path]).get(path)

    def _parsed(self, content: bytes, name: str) -> Lease | None:
        """What a lease says; nothing where it is damaged: then it expires by time alone."""
        url = self._folder.url_of(layout.lease(name))
        try:
            return parse(Lease, unseal(content, url), url)
        except IntegrityError:
            return None


def clear_leases(folder: Folder) -> None:
    """Delete what killed processes left behind, once all units are done."""
    leases = folder / layout.LEASES
    for name in leases.sizes():
        leases.delete(name)
