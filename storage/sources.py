"""Where the user's data are: files at any fsspec URL, found by patterns, or a Python callable."""

from __future__ import annotations

import contextlib
import importlib.machinery
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec

from storage import layout
from storage.errors import DataError, IntegrityError, one_line
from storage.files import Folder
from storage.identity import Json, digest_of_bytes, fingerprint
from storage.input_options import FileOptions
from storage.listing import CHANGES, list_files
from storage.places import is_shipped, locate
from storage.records import read_record, write_record
from storage.tabular import SourceFile
from storage.targets import is_target


def resolve(source: str, folder: Path) -> str:
    """A source as it can be opened: a path is relative to the recipe's `folder`."""
    if is_shipped(source):
        return locate(source)
    if is_target(source) or "://" in source or "::" in source:
        return source
    return str((folder / Path(source).expanduser()).resolve())


def stamps(sources: Sequence[str], version: str | None) -> Json | None:
    """What changes when one of some sources changes; None where nothing can tell of one."""
    found = [stamp(source, version) for source in sources]
    if None in found:
        return None
    return found[0] if len(found) == 1 else found


def stamp(source: str, version: str | None) -> Json | None:
    """What changes when a source changes, without reading it; None where nothing can tell.

    For a file: path, size, and time or etag. For a pattern: those of its files. For a target: its
    file and the recipe's `version`.
    """
    if is_target(source):
        return _target_stamp(source, version)
    if is_pattern(source):
        found = list_files([source], FileOptions())
        told = all(file.stamp for file in found.files)
        return {"source": source, "files": found.stamp} if told else None
    filesystem, path = _open(source)
    try:
        info = filesystem.info(path)
    except Exception as error:
        raise DataError(f"{source!r} cannot be opened: {_reason(error)}") from error
    changes = {key: str(info[key]) for key in info if key.lower() in CHANGES}
    return {"source": source, "size": info.get("size"), **changes} if changes else None


def is_pattern(source: str) -> bool:
    """Whether a source names files by a pattern, and is not a file of that very name."""
    wild = "*" if source.startswith(("http://", "https://")) else "*?["
    if not any(letter in source for letter in wild):
        return False
    filesystem, path = _open(source)
    return not filesystem.exists(path)


def files_of(source: str) -> list[SourceFile]:
    """The files that a path, a URL or a pattern names, sorted by name.

    Raises:
        DataError: the file system is unknown, or nothing is found by a pattern.
    """
    if is_pattern(source):
        found = list_files([source], FileOptions())
        return [SourceFile(found.filesystem, file.path, file.path) for file in found.files]
    try:
        filesystem, path = _open(source)
    except DataError as error:
        raise DataError(f"data.source {error}") from error
    return [SourceFile(filesystem, path, source)]


def _open(source: str) -> tuple[Any, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
    except Exception as error:
        raise DataError(f"{source!r} cannot be opened: {_reason(error)}") from error
    return filesystem, str(path)


def read_source(url: str) -> bytes:
    """The content of a file outside the store, such as a teacher's weights.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    try:
        with fsspec.open(url, "rb") as file:
            return bytes(file.read())
    except Exception as error:
        raise DataError(f"{url!r} cannot be read: {_reason(error)}") from error


def digest_of_source(store: Folder, url: str) -> str:
    """The sha256 of an outside file, kept by its path, size and time, so that it is read once."""
    known = {"stamp": stamp(url, None)}
    if known["stamp"] is None:
        return digest_of_bytes(read_source(url))
    name = layout.file_digest(fingerprint(known))
    if store.exists(name):
        with contextlib.suppress(IntegrityError, KeyError):
            return str(read_record(store, name)["sha256"])
    sha256 = digest_of_bytes(read_source(url))
    write_record(store, name, {**known, "sha256": sha256})
    return sha256


def _target_stamp(source: str, version: str | None) -> Json | None:
    if version is None:
        return None
    file = _module_file(source.partition(":")[0])
    when = file.stat().st_mtime_ns if file and file.is_file() else None
    return {"source": source, "version": version, "mtime": when}


def _module_file(name: str) -> Path | None:
    """The file of a module, without importing the packages that it lies in."""
    path: Sequence[str] | None = None
    spec = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return Path(spec.origin) if spec and spec.origin else None


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return one_line(error)
