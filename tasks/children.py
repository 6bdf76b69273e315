"""What child processes say of their end: how they ended, and errors that can be sent to the parent.

Imports nothing heavy: a child that only reads needs no torch.
"""

from __future__ import annotations

import signal
import traceback
from multiprocessing.context import SpawnProcess

from storage.errors import SoftlabelError, one_line


def how_it_ended(process: SpawnProcess) -> str:
    """How a process that is gone has ended, as the end of a sentence."""
    code = process.exitcode
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
