"""Rows from one process to another through memory that both see, without a copy.

The arrays are written to a file in memory that has no name, and its descriptor goes through the
connection. So nothing is left behind however a process dies, and what does not fit is an error and
no crash. The receiver's arrays lie in that memory, which is freed with the last of them. What comes
through a connection is unpickled: it is one between a process and its own child.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Final

from storage.rows import Rows

_ALIGNMENT: Final = 64
_POPULATED: Final = getattr(mmap, "MAP_POPULATE", 0)


def send_rows(connection: Connection, rows: Rows, receiver: int) -> None:
    """Send rows to the process `receiver`.

    Raises:
        OSError: there is no memory for them, or nobody to receive them.
    """
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(dict(rows), protocol=5, buffer_callback=buffers.append)
    file = _unnamed_file()
    try:
        bounds = []
        end = 0
        for piece in (memoryview(content), *(buffer.raw() for buffer in buffers)):
            _write(file, piece, end)
            bounds.append((end, end + len(piece)))
            end = -(-bounds[-1][1] // _ALIGNMENT) * _ALIGNMENT
        connection.send(bounds)
        reduction.send_handle(connection, file, receiver)
    finally:
        os.close(file)


def receive_rows(connection: Connection, bounds: list[tuple[int, int]]) -> Rows:
    """The rows whose `bounds` were received.

    Raises:
        EOFError: the sender has died.
    """
    file = reduction.recv_handle(connection)
    try:
        memory = mmap.mmap(file, bounds[-1][1], flags=mmap.MAP_SHARED | _POPULATED)
    finally:
        os.close(file)
    view = memoryview(memory)
    content, *buffers = (view[start:stop] for start, stop in bounds)
    rows: Rows = pickle.loads(content, buffers=buffers)
    return rows


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("softlabel-rows")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write(file: int, piece: memoryview, start: int) -> None:
    while len(piece):
        written = os.pwrite(file, piece, start)
        piece, start = piece[written:], start + written
