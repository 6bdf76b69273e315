"""Whole files on file systems that are not this machine's disk.

One try each; `storage.files` tries again and says what failed.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from storage import retry, s3

_CREATING = threading.Lock()


def read_whole(filesystem: Any, path: str) -> bytes:
    """The content of a file, by one request where the file system can."""
    return bytes(filesystem.cat_file(path, **_options(filesystem)))


def read_many(filesystem: Any, paths: dict[str, str]) -> dict[str, bytes | None]:
    """The content of files by name, fetched at once; None for one that is not there.

    Those that could not be read are left out.
    """
    contents = filesystem.cat_ranges(
        list(paths.values()), None, None, on_error="return", **_options(filesystem)
    )
    found: dict[str, bytes | None] = {}
    for name, content in zip(paths, contents, strict=True):
        if isinstance(content, bytes):
            found[name] = content
        elif isinstance(content, FileNotFoundError) and not retry.is_missing_bucket(content):
            found[name] = None
    return found


def create_whole(filesystem: Any, path: str, content: bytes, mark: str) -> bool:
    """Publish a file if there is none of that name.

    On S3 by a conditional PUT that carries the writer's `mark`; elsewhere as the file system can,
    one after the other within this process.
    """
    atomic = s3.is_s3(filesystem)
    options = s3.marked(mark) if atomic else {}
    try:
        with contextlib.nullcontext() if atomic else _CREATING:
            filesystem.pipe_file(path, content, mode="create", **options)
    except Exception as error:
        if not retry.is_taken(error):
            raise
        if atomic:  # perhaps by an earlier try of ours whose answer was lost
            return s3.has_mark(filesystem, path, mark)
        if not filesystem.exists(path):  # another name was in the way
            raise
        return False
    return True


def secrets_of(filesystem: Any) -> list[str]:
    """What it was given that must not be said."""
    options = getattr(filesystem, "storage_options", {})
    names = ("key", "secret", "token", "password")
    return [str(options[name]) for name in names if options.get(name)]


def _options(filesystem: Any) -> dict[str, Any]:
    return s3.WHOLE_FILE if s3.is_s3(filesystem) else {}
