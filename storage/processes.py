"""Processes: telling one from all others of its machine, and whether it is gone.

A process id alone is given again to others, so it goes with the machine's start, the space of ids
that it belongs to (a container has its own) and when the process began. Needs `/proc`, as on Linux;
elsewhere no process can be told, and none counts as gone.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from storage.spec import StoredModel

_PROC: Final = Path("/proc")
_DEAD: Final = ("Z", "X", "x")
"""Killed, and still listed for the parent to see."""


class Process(StoredModel):
    """A process of some machine.

    Attributes:
        host: the machine, since its last start, and its space of process ids.
        pid: the process id there.
        started: when it began, in clock ticks since the machine's start.
    """

    host: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    started: str


def this() -> Process | None:
    """This process; None where it cannot be told from others."""
    host = _host()
    if host is None:
        return None
    found = _status(os.getpid())
    return Process(host=host, pid=os.getpid(), started=found[1]) if found else None


def is_gone(process: Process) -> bool:
    """Whether a process ran on this machine and has ended. A process elsewhere is never gone."""
    if process.host != _host():
        return False
    found = _status(process.pid)
    if found is not None:
        return found[0] in _DEAD or found[1] != process.started
    try:
        os.kill(process.pid, 0)  # asks only: `/proc` may hide the processes of other people
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _status(pid: int) -> tuple[str, str] | None:
    """The state of a process and when it began."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name, in brackets, may hold anything; the third field follows it.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]


def _host() -> str | None:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink(_PROC / "self/ns/pid")  # noqa: PTH115 a name, no path
    except OSError:
        return None
    return f"{platform.node()}/{boot}/{space}"
