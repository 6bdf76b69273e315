"""One handle for "where": a folder at any fsspec URL.

A file appears whole or not at all: locally by temporary name, fsync and rename; on an object store
by one PUT. Names are relative and never leave the folder. Every failure is a `StoreError` that
names the URL.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage.errors import StoreError, one_line

TEMPORARY_SUFFIX = ".tmp"
_STALE_AFTER_SECONDS = 3600.0


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

    @classmethod
    def open(cls, url: str | Path) -> Folder:
        """Open the folder at `url`, which need not exist yet.

        Raises:
            StoreError: no file system of that protocol can be had.
        """
        text = str(url)
        try:
            filesystem, path = fsspec.core.url_to_fs(text)
        except Exception as error:
            raise StoreError(f"cannot open the URL {text!r}: {one_line(error)}") from error
        path = path.rstrip("/") or "/"
        local = isinstance(filesystem, LocalFileSystem)
        return cls(filesystem, path, path if local else filesystem.unstrip_protocol(path))

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
        return f"{self.url.rstrip('/')}/{name}"

    def read_bytes(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            StoreError: the file is missing or cannot be read.
        """
        with self._failures("read", name):
            return bytes(self.filesystem.cat_file(self._path(name)))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Publish a file: afterwards it is there whole; on failure the old state stays.

        Raises:
            StoreError: it cannot be written (no permission, no space, no connection).
        """
        path = self._path(name)
        with self._failures("write", name):
            if self.is_local:
                _write_local(Path(path), content)
            else:
                self.filesystem.pipe_file(path, content)

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        with self._failures("delete", name), contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(self._path(name))

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is there."""
        with self._failures("look at", name):
            return bool(self.filesystem.exists(self._path(name)))

    def sizes(self) -> dict[str, int]:
        """The files of this folder itself: name to size in bytes, by one listing."""
        with self._failures("list", ""):
            try:
                self.filesystem.invalidate_cache(self.path)
                entries = self.filesystem.ls(self.path, detail=True)
            except FileNotFoundError:
                return {}
            return {
                PurePosixPath(entry["name"]).name: int(entry["size"] or 0)
                for entry in entries
                if entry["type"] == "file" and not entry["name"].endswith(TEMPORARY_SUFFIX)
            }

    def folders(self) -> list[str]:
        """The names of the folders right below this one, sorted."""
        with self._failures("list", ""):
            try:
                self.filesystem.invalidate_cache(self.path)
                entries = self.filesystem.ls(self.path, detail=True)
            except FileNotFoundError:
                return []
            return sorted(
                PurePosixPath(entry["name"]).name
                for entry in entries
                if entry["type"] == "directory"
            )

    def require_writable(self) -> None:
        """Prove by a small file that this folder can be written.

        Raises:
            StoreError: it cannot; nothing is left behind.
        """
        name = f"probe-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        self.write_bytes(name, b"softlabel")
        self.delete(name)

    def remove_stale_temporaries(self) -> None:
        """Remove what writers killed an hour ago or more left under temporary names."""
        if not self.is_local or not Path(self.path).is_dir():
            return
        for path in Path(self.path).rglob(f".*{TEMPORARY_SUFFIX}"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_AFTER_SECONDS:
                    path.unlink()

    def _path(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name:
            raise StoreError(f"{name!r} is not the name of a file below {self.url}")
        return f"{self.path.rstrip('/')}/{'/'.join(parts)}"

    @contextlib.contextmanager
    def _failures(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            where = self.url_of(name) if name else self.url
            if isinstance(error, FileNotFoundError):
                raise StoreError(f"cannot {verb} {where}: there is no such file") from error
            raise StoreError(f"cannot {verb} {where}: {one_line(error)}") from error


def _write_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
