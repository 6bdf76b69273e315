"""The user's data as they lie, before anything is made of them: chunks of columns, and stamps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from storage import sources
from storage.chunks import read_chunks
from storage.data_options import DataOptions
from storage.errors import BadSampleError, DataError
from storage.file_corpus import OpenFile
from storage.file_ingest import list_sources, split_files
from storage.identity import Json
from storage.idx import idx_pairs, read_idx_pair
from storage.input_options import TEXT, Format
from storage.listing import ListedFile
from storage.preparation import Chunk
from storage.schema import SAMPLE_ID

TEXT_SUFFIXES: Final = (
    ".txt", ".md", ".rst", ".text", ".html", ".xml", ".json", ".py", ".c", ".h", ".cpp", ".rs",
    ".go", ".java", ".js", ".ts", ".sh", ".tex", ".yaml", ".yml", ".toml",
)  # fmt: skip
"""Of the files that a folder is searched for; a pattern names any others."""
_FILES_OF_CHUNK: Final = 256
_BYTES_OF_CHUNK: Final = 1 << 23


def data_stamps(
    options: DataOptions, folder: Path, suffixes: Sequence[str] = ()
) -> dict[str, Json | None]:
    """What changes when the data do, without reading them; None where nothing can tell.

    Args:
        options: what the recipe says of the data.
        folder: the recipe's, which paths are relative to.
        suffixes: of the files that are samples.

    Raises:
        DataError: there are none.
    """
    if options.format.is_listed:
        wanted = TEXT_SUFFIXES if options.format is Format.TEXT else suffixes
        found = list_sources(options, folder, wanted)
        return {split: listing.stamp for split, listing in found.items()}
    if options.format is Format.IDX:
        return {
            split: [sources.stamp(url, options.version) for url in urls]
            for split, urls in _idx_urls(options, folder).items()
        }
    return {
        split: sources.stamps([sources.resolve(url, folder) for url in urls], options.version)
        for split, urls in options.sources.items()
    }


def raw_chunks(options: DataOptions, folder: Path) -> dict[str, Iterator[Chunk]]:
    """The data in pieces: for each split, or, under the name "", for all of them.

    Raises:
        DataError: they are not there, or hold no such columns.
    """
    if options.format is Format.TEXT:
        listings = list_sources(options, folder, TEXT_SUFFIXES)
        filesystem = next(iter(listings.values())).filesystem
        splits = split_files(listings, options)
        return {split: _texts(filesystem, files) for split, files in splits.items()}
    if options.format is Format.IDX:
        found = _idx_urls(options, folder)
        return {
            split: read_idx_pair(*urls[:1], *(urls[1:] or (None,))) for split, urls in found.items()
        }
    extra = (options.label, options.mask, options.id, options.splits.column)
    wanted = dict.fromkeys([*options.inputs, *(name for name in extra if name is not None)])
    return {
        split: read_chunks([sources.resolve(url, folder) for url in urls], list(wanted))
        for split, urls in options.sources.items()
    }


def _texts(filesystem: Any, files: Sequence[ListedFile]) -> Iterator[Chunk]:
    """The content of text files: bytes, or why there are none."""
    names: list[str] = []
    texts: list[bytes | BadSampleError] = []
    size = 0
    for file in files:
        names.append(file.name)
        texts.append(_content(filesystem, file))
        size += file.size_bytes
        if len(names) == _FILES_OF_CHUNK or size > _BYTES_OF_CHUNK:
            yield _chunk(names, texts)
            names, texts, size = [], [], 0
    if names:
        yield _chunk(names, texts)


def _content(filesystem: Any, file: ListedFile) -> bytes | BadSampleError:
    try:
        return OpenFile(filesystem, file.path, file.size_bytes).read(0, file.size_bytes)
    except BadSampleError as error:
        return error


def _chunk(names: Sequence[str], texts: Sequence[bytes | BadSampleError]) -> Chunk:
    column = np.empty(len(texts), dtype=object)
    column[:] = texts
    return {SAMPLE_ID: np.array(names, dtype=object), TEXT: column}


def _idx_urls(options: DataOptions, folder: Path) -> dict[str, tuple[str, ...]]:
    """The file of images and, where there is one, that of labels: for each split, or all."""
    found: dict[str, tuple[str, ...]] = {}
    for split, urls in options.sources.items():
        resolved = tuple(sources.resolve(url, folder) for url in urls)
        if len(resolved) > 1 or "images-idx" in resolved[0]:
            found[split] = resolved[:2]
            continue
        pairs = idx_pairs(resolved[0])
        if not options.splits.file and len(pairs) > 1:
            raise DataError(
                f"data.source: {urls[0]!r} holds the splits {', '.join(pairs)}; say splits: "
                "{file: true}, or name the two files of one split"
            )
        found |= pairs if options.splits.file else {"": next(iter(pairs.values()))}
    if options.label is not None:
        for split, urls in found.items():
            if len(urls) < 2:
                raise DataError(f"data.label: the split {split!r} names no file of labels")
    return found
