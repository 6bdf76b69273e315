"""Ending with the process that started this one, even when that one is killed with -9."""

from __future__ import annotations

import os
import threading
import time

PARENT_VARIABLE = "SOFTLABEL_END_WITH"
"""The id of the process whose end ends its children."""
_POLL_SECONDS = 1.0
_watching = threading.Event()


def end_with_parent() -> None:
    """Where the environment names this process's parent, end as soon as that one has ended."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or parent == str(os.getpid()) or _watching.is_set():
        return
    _watching.set()
    threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)
