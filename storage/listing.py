"""Which files a folder or a pattern names, at any fsspec URL, without reading them.

A pattern is a path with `*`, `?` and `[...]` inside a name, and `**` for any number of folders.
Only plain files count: links, devices, hidden names and what lies in hidden folders are left out.
A file's name is its path relative to where the patterns begin, so it stays when all of it moves.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat as modes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage.errors import DataError, one_line
from storage.identity import canonical_json
from storage.input_options import FileOptions

CHANGES: Final = (
    "mtime", "created", "updated", "etag", "lastmodified", "last_modified", "last-modified",
)  # fmt: skip
"""What file systems call the thing that changes with a file, in lower case."""
_WILD: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class ListedFile:
    """A file that was found.

    Attributes:
        name: its path relative to where all patterns begin, with `/`.
        below: its path relative to where its own pattern begins.
        path: its path on the file system.
        size_bytes: as listed.
        stamp: what changes when its content does: time or etag.
    """

    name: str
    below: str
    path: str
    size_bytes: int
    stamp: str


@dataclass(frozen=True)
class Listing:
    """Files of one file system, sorted by name."""

    filesystem: Any
    files: tuple[ListedFile, ...]

    @property
    def stamp(self) -> str:
        """The sha256 over names, sizes and times: what changes when a file does."""
        state = hashlib.sha256()
        for file in self.files:
            state.update(canonical_json([file.name, file.size_bytes, file.stamp]))
        return state.hexdigest()


def list_files(
    sources: Sequence[str],
    options: FileOptions,
    suffixes: Iterable[str] = (),
    together: Sequence[str] = (),
) -> Listing:
    """The files that `sources` name.

    Args:
        sources: folders, files or patterns at paths or URLs of one file system.
        options: which of them are left out.
        suffixes: of the files to be found in a folder; none for all files.
        together: all sources whose names must differ, so that these are relative to what they
            have in common.

    Raises:
        DataError: a source cannot be looked at, or nothing is found.
    """
    opened = [_open(source) for source in sources]
    filesystem = opened[0][0]
    bases = [_fixed_part(path) for _, path in opened]
    root = _common([*bases, *(_fixed_part(_open(source)[1]) for source in together)])
    found: dict[str, ListedFile] = {}
    for (_, path), base, source in zip(opened, bases, sources, strict=True):
        try:
            found |= {file.name: file for file in _matching(filesystem, path, base, root, suffixes)}
        except Exception as error:
            raise DataError(f"data.source {source!r} cannot be listed: {_why(error)}") from error
    files = _chosen(list(found.values()), options)
    if not files:
        wanted = f" with a suffix of {', '.join(sorted(suffixes))}" if suffixes else ""
        raise DataError(
            f"data.source: no files{wanted} are found by {', '.join(map(repr, sources))} "
            "(links and hidden files are left out)"
        )
    return Listing(filesystem, tuple(sorted(files, key=lambda file: file.name)))


def pattern_of(glob: str) -> re.Pattern[str]:
    """A pattern of paths as a regular expression."""
    parts = glob.strip("/").split("/")
    text = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            text += ".*" if last else "(?:[^/]+/)*"
        else:
            text += _segment(part) + ("" if last else "/")
    return re.compile(text, re.DOTALL)


def _segment(part: str) -> str:
    """One name of a pattern; `[` without its end is a plain character."""
    text = ""
    place = 0
    while place < len(part):
        letter = part[place]
        closing = part.find("]", place + 2) if letter == "[" else -1
        if closing > 0:
            inner = part[place + 1 : closing].replace("\\", "\\\\")
            text += f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
            place = closing + 1
            continue
        text += {"*": "[^/]*", "?": "[^/]"}.get(letter, re.escape(letter))
        place += 1
    return text


def _open(source: str) -> tuple[Any, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
    except Exception as error:
        raise DataError(f"data.source {source!r} cannot be opened: {_why(error)}") from error
    return filesystem, str(path)


def _fixed_part(path: str) -> str:
    """The folder where a pattern begins, or the path itself where it is none."""
    parts = path.split("/")
    for place, part in enumerate(parts):
        if _WILD.search(part):
            return "/".join(parts[:place])
    return path.rstrip("/")


def _common(bases: Sequence[str]) -> str:
    if len(set(bases)) == 1:
        return bases[0]
    names = zip(*(base.split("/") for base in bases), strict=False)
    return "/".join(same[0] for same in takewhile(lambda same: len(set(same)) == 1, names))


def _matching(
    filesystem: Any, path: str, base: str, root: str, suffixes: Iterable[str]
) -> Iterator[ListedFile]:
    wild = _WILD.search(path) is not None
    wanted = pattern_of(path[len(base) :]) if wild else None
    endings = tuple(suffixes)
    alone = not wild and bool(filesystem.isfile(base or "/"))
    for name, size_bytes, changed in _walk(filesystem, base, alone=alone):
        below = name[len(base) :].lstrip("/")
        if wanted is not None and not wanted.fullmatch(below):
            continue
        if endings and not alone and not name.lower().endswith(endings):
            continue
        start = root if not alone or root != base else root.rpartition("/")[0]
        own = base if not alone else base.rpartition("/")[0]
        yield ListedFile(_relative(name, start), _relative(name, own), name, size_bytes, changed)


def _relative(name: str, start: str) -> str:
    """A path below `start`; bytes that are no UTF-8 are written with backslashes."""
    return os.fsencode(name[len(start) :].lstrip("/")).decode("utf-8", "backslashreplace")


def _walk(filesystem: Any, base: str, *, alone: bool) -> Iterator[tuple[str, int, str]]:
    if isinstance(filesystem, LocalFileSystem):
        yield from _walk_local(base or "/", alone=alone)
        return
    found = filesystem.find(base, detail=True)
    for name, info in found.items():
        below = PurePosixPath(str(name)[len(base) :].lstrip("/"))
        if info.get("type") == "file" and not any(part.startswith(".") for part in below.parts):
            yield str(name), int(info.get("size") or 0), _changed(info)


def _walk_local(base: str, *, alone: bool) -> Iterator[tuple[str, int, str]]:
    if alone:
        status = Path(base).stat()
        yield base, status.st_size, str(status.st_mtime_ns)
        return
    waiting = [base]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if os.access(entry.path, os.R_OK | os.X_OK):
                        waiting.append(entry.path)
                    continue
                with contextlib.suppress(FileNotFoundError):  # it went while we looked
                    status = entry.stat(follow_symlinks=False)
                    if modes.S_ISREG(status.st_mode):
                        yield entry.path, status.st_size, str(status.st_mtime_ns)


def _changed(info: dict[str, Any]) -> str:
    return " ".join(str(info[key]) for key in sorted(info) if key.lower() in CHANGES)


def _chosen(files: list[ListedFile], options: FileOptions) -> list[ListedFile]:
    left_out = [pattern_of(glob) for glob in options.exclude]
    most = options.max_bytes
    files = [
        file
        for file in files
        if file.size_bytes >= options.min_bytes
        and (most is None or file.size_bytes <= most)
        and not any(pattern.fullmatch(file.name) for pattern in left_out)
    ]
    if options.limit is None or len(files) <= options.limit:
        return files
    return sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).digest())[
        : options.limit
    ]


def _why(error: BaseException) -> str:
    return "there is no such folder" if isinstance(error, FileNotFoundError) else one_line(error)
