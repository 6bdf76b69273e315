"""What child processes need: to end with the parent, words for their end, errors that can be sent.

Imports nothing heavy: a child that only reads needs no torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from multiprocessing.context import SpawnProcess

from storage.errors import SoftlabelError, one_line


def end_with_parent() -> None:
    """Let this child process end as soon as its parent has ended, however that went."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def how_it_ended(process: SpawnProcess) -> str:
    """How a process that is gone has ended, as the end of a sentence."""
    return exit_words(process.exitcode)


def exit_words(code: int | None) -> str:
    """The same by the exit code."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with code {code}"


def sendable(error: BaseException, kind: type[SoftlabelError], whose: str) -> SoftlabelError:
    """The error itself where it is ours; others by their words, for they may hold anything.

    Args:
        error: what was raised.
        kind: the type of error that others become.
        whose: what failed, such as `the process of the teacher`.
    """
    if isinstance(error, SoftlabelError):
        clean = type(error)(*error.args)
        clean.__cause__ = error.__cause__ if isinstance(error.__cause__, OSError) else None
        return clean
    words = "".join(traceback.format_exception_only(error))
    return kind(f"{whose} failed: {one_line(Exception(words))}")


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
