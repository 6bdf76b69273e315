"""Whole files on this machine's disk: a temporary name, fsync, then rename or link, then fsync.

Whatever stops a writer, the name shows the old state or the new one, never a part. A writer that
is killed leaves a hidden temporary file behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from storage import processes
from storage.identity import digest_of_bytes

TEMPORARY_SUFFIX = ".tmp"
_STALE_AFTER_SECONDS = 3600.0
_WRITER = re.compile(r"\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)-[0-9a-f]{8}\.tmp$")
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def write_whole(path: Path, content: bytes) -> None:
    """Publish a file in the place of what is there."""
    with _temporary(path, content) as temporary:
        temporary.replace(path)
    _sync_folder(path.parent)


def create_whole(path: Path, content: bytes) -> bool:
    """Publish a file if there is none of that name; of several writers exactly one succeeds.

    On a disk without hard links the name is taken by an empty file first, which others may see.
    """
    if path.exists():
        return False
    with _temporary(path, content) as temporary:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                return False
            temporary.replace(path)
    _sync_folder(path.parent)
    return True


def remove_stale_temporaries(folder: Path) -> None:
    """Remove what killed writers left below `folder`: of this machine, or an hour ago or more."""
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            old = time.time() - path.stat().st_mtime > _STALE_AFTER_SECONDS
            if old or _writer_is_gone(path):
                path.unlink()


def _writer() -> str:
    """What tells this process from others, for the name of a file."""
    process = processes.this()
    if process is None:
        return str(os.getpid())
    return f"{_host_mark(process.host)}-{process.pid}-{process.started}"


def _writer_is_gone(temporary: Path) -> bool:
    found, own = _WRITER.search(temporary.name), processes.this()
    if found is None or own is None or found["host"] != _host_mark(own.host):
        return False
    writer = processes.Process(host=own.host, pid=int(found["pid"]), started=found["started"])
    return processes.is_gone(writer)


def _host_mark(host: str) -> str:
    return digest_of_bytes(host.encode())[:8]


@contextlib.contextmanager
def _temporary(path: Path, content: bytes) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{_writer()}-{secrets.token_hex(4)}"
    temporary = path.parent / f".{path.name}.{mark}{TEMPORARY_SUFFIX}"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """The free bytes of the disk on which a folder lies, or will lie."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
