"""The files and locks that the local server and its clients share.

A client holds `clients.lock` shared until its process ends, the one server `server.lock`
exclusively. The kernel releases locks however a process dies.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from flows.prefect_home import prefect_home


@dataclass(frozen=True)
class ServerFiles:
    """The files that clients and server share, all in one folder."""

    folder: Path

    @classmethod
    def default(cls) -> ServerFiles:
        """Return the files below the user's PREFECT_HOME."""
        return cls(prefect_home() / "softlabel")

    @property
    def clients_lock(self) -> Path:
        """Held shared by every client, exclusively by a server that has none left."""
        return self.folder / "clients.lock"

    @property
    def server_lock(self) -> Path:
        """Held exclusively by the one server, from before its process exists to its end."""
        return self.folder / "server.lock"

    @property
    def state(self) -> Path:
        """Says where the server answers; believed only while `server_lock` is held."""
        return self.folder / "server.json"

    @property
    def log(self) -> Path:
        """Everything that the server process prints."""
        return self.folder / "server.log"


@dataclass(frozen=True)
class ServerState:
    """What `server.json` holds: the process, and the URL of its API."""

    pid: int
    url: str


def read_state(path: Path) -> ServerState | None:
    """Return what the file says of the server, or None when it is missing or not readable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return ServerState(pid=int(content["pid"]), url=str(content["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


client_locks: set[int] = set()
"""The descriptors by which this process is a client."""


def _closeclient_locks() -> None:
    """Drop a forked child's copies, so that it keeps no server alive after its parent's death."""
    while client_locks:
        os.close(client_locks.pop())


os.register_at_fork(after_in_child=_closeclient_locks)


def try_lock(path: Path, operation: int) -> int | None:
    """Lock a file (created when missing) and return its descriptor, or None if it is taken.

    `operation` is `fcntl.LOCK_SH` or `fcntl.LOCK_EX`. Closing the descriptor releases the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
