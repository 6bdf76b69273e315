"""One handle for "where": a folder at any fsspec URL.

A file appears whole or not at all: locally by temporary name, fsync and rename; on an object store
by one PUT. Names are relative and never leave the folder. Listings are always fresh. What fails
for a moment is tried again (see `storage.retry`); what fails for good is a `StoreError` of one line
that names the URL. Credentials come from the environment of the file system's own client, as
`AWS_ACCESS_KEY_ID` and `AWS_ENDPOINT_URL`, and stand in no error.

On S3 reading costs one GET, writing one PUT (creating one HEAD more if the name is taken), deleting
one DELETE, a look one HEAD (and one LIST if no such file is there), a listing one LIST per 1000
entries (two if it is empty).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage import local, remote, retry, s3
from storage.errors import StoreError
from storage.local import TEMPORARY_SUFFIX
from storage.ranges import RangeFile

Result = TypeVar("Result")

_AT_ONCE: Final = 64  # a server that is down is found out after so many


@dataclass(frozen=True)
class Folder:
    """A folder on a file system.

    Attributes:
        filesystem: the fsspec file system that holds it.
        path: its path there, without a trailing slash.
        url: how people write it: a local path, or `protocol://...`.
    """

    filesystem: Any
    path: str
    url: str

    def __post_init__(self) -> None:
        if s3.is_s3(self.filesystem):
            s3.try_once(self.filesystem)

    def __reduce__(self) -> tuple[type[Folder], tuple[Any, str, str]]:
        return Folder, (self.filesystem, self.path, self.url)

    @classmethod
    def open(cls, url: str | Path) -> Folder:
        """Open the folder at `url`, which need not exist yet.

        Raises:
            StoreError: no file system of that protocol can be had.
        """
        text = str(url)
        try:
            filesystem, path = fsspec.core.url_to_fs(text, **s3.client_options(text))
        except Exception as error:
            where = retry.redacted(text)
            raise StoreError(f"cannot open the URL {where!r}: {retry.reason(error)}") from error
        path = path.rstrip("/") or "/"
        return cls(filesystem, path, _url(text, filesystem, path))

    def __truediv__(self, name: str) -> Folder:
        """The folder `name` below this one."""
        path = self._path(name)
        return Folder(self.filesystem, path, self.url_of(name))

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's own disk."""
        return isinstance(self.filesystem, LocalFileSystem)

    def url_of(self, name: str) -> str:
        """The URL of the file or folder `name`."""
        inner, chained, outer = self.url.partition("::")
        return f"{inner.rstrip('/')}/{name}{chained}{outer}"

    def read_bytes(self, name: str) -> bytes:
        """The content of a file; one that ends early on its way here is never returned.

        Raises:
            StoreError: the file is missing or cannot be read.
        """
        path = self._path(name)
        return self._do("read", name, lambda: remote.read_whole(self.filesystem, path))

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of many small files, by name; those that are not there are left out.

        On a remote store they are fetched at the same time. All of them are held in memory.

        Raises:
            StoreError: one of them cannot be read; it says which.
        """
        paths = {name: self._path(name) for name in names}
        waiting = list(paths)
        found: dict[str, bytes | None] = {}
        while waiting:
            some, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            if self._is_async:
                found |= remote.read_many(self.filesystem, {name: paths[name] for name in some})
            for name in some:
                if name not in found:
                    with contextlib.suppress(_MissingFileError):
                        found[name] = self.read_bytes(name)
        return {name: content for name in paths if (content := found.get(name)) is not None}

    def open_file(self, name: str, size_bytes: int) -> RangeFile:
        """A file of known size to seek in; each read of a part is tried again as a whole read is.

        Raises:
            StoreError: when it is read: the file is missing or cannot be read.
        """
        path = self._path(name)

        def read(start: int, stop: int) -> bytes:
            def part() -> bytes:
                return bytes(self.filesystem.cat_file(path, start=start, end=stop))

            try:
                return self._do("read", name, part)
            except StoreError as error:
                if error.__cause__ is not None and retry.is_past_end(error.__cause__):
                    return b""
                raise

        return RangeFile(size_bytes, read)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Publish a file: afterwards it is there whole; on failure the old state stays.

        Raises:
            StoreError: it cannot be written (no permission, no space, no connection).
        """
        path = self._path(name)
        if self.is_local:
            self._do("write", name, lambda: local.write_whole(Path(path), content))
        else:
            self._do("write", name, lambda: self.filesystem.pipe_file(path, content))

    def create(self, name: str, content: bytes) -> bool:
        """Publish a file only if there is none of that name; say whether it was published.

        Of several writers at once exactly one succeeds: locally by a hard link, on S3 by a
        conditional PUT, in memory within this process. Other file systems look before they write.

        Raises:
            StoreError: it cannot be written.
        """
        path = self._path(name)
        if self.is_local:
            return self._do("create", name, lambda: local.create_whole(Path(path), content))
        mark = s3.new_mark()
        return self._do(
            "create", name, lambda: remote.create_whole(self.filesystem, path, content, mark)
        )

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        path = self._path(name)
        with contextlib.suppress(_MissingFileError):
            self._do("delete", name, lambda: self.filesystem.rm_file(path))

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is there."""
        path = self._path(name)
        if not self._is_async:
            return self._do("look at", name, lambda: bool(self.filesystem.exists(path)))
        try:
            self._do("look at", name, lambda: self.filesystem.info(path))
        except _MissingFileError:
            return False
        return True

    def sizes(self) -> dict[str, int]:
        """The files of this folder itself: name to size in bytes, by one listing."""
        return {
            PurePosixPath(entry["name"]).name: int(entry["size"] or 0)
            for entry in self._entries()
            if entry["type"] == "file" and not entry["name"].endswith(TEMPORARY_SUFFIX)
        }

    def folders(self) -> list[str]:
        """The names of the folders right below this one, sorted."""
        return sorted(
            PurePosixPath(entry["name"]).name
            for entry in self._entries()
            if entry["type"] == "directory"
        )

    def free_bytes(self) -> int | None:
        """How many bytes can still be written; None where that cannot be told, as on S3."""
        return local.free_bytes(Path(self.path)) if self.is_local else None

    def require_writable(self) -> None:
        """Prove by a small file that this folder can be written.

        Raises:
            StoreError: it cannot; nothing is left behind.
        """
        name = f"probe-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        self.write_bytes(name, b"softlabel")
        self.delete(name)

    def remove_stale_temporaries(self) -> None:
        """Remove what killed writers left: on this machine, or an hour ago or more."""
        if self.is_local and Path(self.path).is_dir():
            local.remove_stale_temporaries(Path(self.path))

    @property
    def _is_async(self) -> bool:
        return bool(getattr(self.filesystem, "async_impl", False))

    def _path(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name:
            raise StoreError(f"{name!r} is not the name of a file below {self.url}")
        return f"{self.path.rstrip('/')}/{'/'.join(parts)}"

    def _entries(self) -> list[dict[str, Any]]:
        def entries() -> list[dict[str, Any]]:
            self.filesystem.invalidate_cache(self.path)
            return list(self.filesystem.ls(self.path, detail=True))

        try:
            found = self._do("list", "", entries)
        except _MissingFileError:
            return []
        # Some tools mark an S3 folder by an empty file of the folder's own name.
        return [entry for entry in found if entry["name"].strip("/") != self.path.strip("/")]

    def _do(self, verb: str, name: str, operation: Callable[[], Result]) -> Result:
        try:
            return operation() if self.is_local else retry.patiently(operation)
        except StoreError:
            raise
        except Exception as error:
            where = self.url_of(name) if name else self.url
            missing = isinstance(error, FileNotFoundError) and not retry.is_missing_bucket(error)
            kind = _MissingFileError if missing else StoreError
            why = retry.reason(error, *remote.secrets_of(self.filesystem))
            raise kind(f"cannot {verb} {where}: {why}") from error


class _MissingFileError(StoreError):
    """There is no such file, though its store is there."""


def _url(text: str, filesystem: Any, path: str) -> str:
    if isinstance(filesystem, LocalFileSystem):
        return path
    if "::" in text or "@" in text:  # the file system alone does not know all of it
        return retry.redacted(text.rstrip("/"))
    return str(filesystem.unstrip_protocol(path))
