"""From folders of files to a corpus: listed, divided into splits, labelled by folder, digested.

What a file holds is kept in the store by its name, size and time, so that only new files are read.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import layout, sources
from storage.data_options import DataOptions
from storage.errors import DataError, IntegrityError
from storage.file_corpus import FileCorpus, FileDecoder, SplitFiles, digest_files
from storage.files import Folder
from storage.identity import fingerprint
from storage.listing import ListedFile, Listing, list_files
from storage.options_base import SPLIT_NAME_PATTERN
from storage.records import read_record, write_record
from storage.splitting import split_by_hash

_SPLIT_NAME = re.compile(SPLIT_NAME_PATTERN)


def list_sources(
    options: DataOptions, folder: Path, suffixes: Sequence[str] = ()
) -> dict[str, Listing]:
    """The files that `data.source` names: for each split, or, under "", for all of them.

    Raises:
        DataError: there are none.
    """
    named = {
        split: [sources.resolve(source, folder) for source in several]
        for split, several in options.sources.items()
    }
    together = [source for several in named.values() for source in several]
    return {
        split: list_files(several, options.files, suffixes, together)
        for split, several in named.items()
    }


def split_files(
    listings: dict[str, Listing], options: DataOptions
) -> dict[str, tuple[ListedFile, ...]]:
    """The files of each split, by name.

    Raises:
        DataError: a split is empty, or has no name; or a file is in two of them.
    """
    if options.splits.file:
        found = {split: listing.files for split, listing in listings.items()}
        _require_unique(found)
    else:
        (listing,) = listings.values()
        of_file = split_names(listing.files, options)
        names = sorted(options.splits.fractions or set(of_file))
        found = {
            split: tuple(f for f, own in zip(listing.files, of_file, strict=True) if own == split)
            for split in names
        }
    for split, files in found.items():
        if not files:
            raise DataError(f"data: the split {split!r} is empty; change data.splits")
    return found


def split_names(files: Sequence[ListedFile], options: DataOptions) -> list[str]:
    """The split of each file, by the hash of its name or by the folder that it lies in.

    Raises:
        DataError: a file lies in no folder that could be a split.
    """
    if options.splits.fractions is not None:
        return [str(split) for split in split_by_hash([f.name for f in files], options.splits)]
    splits = [_folder(file, 0) for file in files]
    for file, split in zip(files, splits, strict=True):
        if not _SPLIT_NAME.fullmatch(split):
            raise DataError(
                f"data.splits.folder: the first folder of {file.below!r} is no name of a split, "
                "which has up to 40 of a-z, 0-9 and _"
            )
    return splits


def open_file_corpus(
    store: Folder, options: DataOptions, folder: Path, decoder: FileDecoder
) -> FileCorpus:
    """The corpus of the files that `data.source` names.

    Raises:
        DataError: there are none, a split is empty, or a file lies in the folder of no class.
    """
    listings = list_sources(options, folder, decoder.suffixes)
    splits = split_files(listings, options)
    filesystem = next(iter(listings.values())).filesystem
    classes = _classes(splits, options) if options.label is not None else None
    digests = _kept_digests(store, filesystem, listings, decoder)
    known = {
        split: SplitFiles(
            files,
            tuple(digests[file.name] for file in files),
            None if classes is None else _class_ids(files, classes, options),
        )
        for split, files in splits.items()
    }
    return FileCorpus(filesystem, known, decoder, classes)


def _folder(file: ListedFile, depth: int) -> str:
    """The folder that a file lies in, so many below its source; "" for none."""
    parts = file.below.split("/")
    return parts[depth] if len(parts) > depth + 1 else ""


def _classes(splits: dict[str, tuple[ListedFile, ...]], options: DataOptions) -> tuple[str, ...]:
    """The names of the classes: those of the recipe, or of the folders, sorted."""
    if options.class_names is not None:
        return options.class_names
    depth = int(options.splits.folder)
    found = {_folder(file, depth) for files in splits.values() for file in files}
    return tuple(sorted(found - {""}))


def _class_ids(
    files: Sequence[ListedFile], classes: tuple[str, ...], options: DataOptions
) -> NDArray[np.int64]:
    place = {name: number for number, name in enumerate(classes)}
    found = [_folder(file, int(options.splits.folder)) for file in files]
    for file, name in zip(files, found, strict=True):
        if name not in place:
            where = f"in the folder {name!r}, which is not among data.classes"
            raise DataError(
                f"data.label: {file.name!r} lies "
                + (where if name else "in no folder that could be its class")
            )
    return np.array([place[name] for name in found], np.int64)


def _kept_digests(
    store: Folder, filesystem: Any, listings: dict[str, Listing], decoder: FileDecoder
) -> dict[str, str]:
    """The digest of each file by name; only files that are new or changed are read."""
    files = [file for listing in listings.values() for file in listing.files]
    paths = sorted({file.path[: len(file.path) - len(file.name)] for file in files})
    protocol = filesystem.to_json() if hasattr(filesystem, "to_json") else str(filesystem)
    name = layout.file_digests(fingerprint([protocol, paths, decoder.identity]))
    kept: dict[str, list[Any]] = {}
    with contextlib.suppress(IntegrityError, KeyError):
        kept = read_record(store, name)["files"] if store.exists(name) else {}
    new = [file for file in files if kept.get(file.name, [])[:2] != [file.size_bytes, file.stamp]]
    new = [file for file in new if file.stamp] + [file for file in files if not file.stamp]
    for file, digest in zip(new, digest_files(filesystem, new, decoder), strict=True):
        kept[file.name] = [file.size_bytes, file.stamp, digest]
    if new:
        write_record(store, name, {"files": {file.name: kept[file.name] for file in files}})
    return {file.name: str(kept[file.name][2]) for file in files}


def _require_unique(splits: dict[str, tuple[ListedFile, ...]]) -> None:
    seen: dict[str, str] = {}
    for split, files in splits.items():
        for file in files:
            if file.name in seen:
                raise DataError(
                    f"data.source: {file.name!r} is in the splits {seen[file.name]!r} and "
                    f"{split!r}; a sample belongs to one"
                )
            seen[file.name] = split
