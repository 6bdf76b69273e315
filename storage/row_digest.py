"""The digest of samples: what they hold, whether they are at hand or read a part at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from storage.identity import canonical_json
from storage.rows import Column, Ragged, Rows, is_text, num_rows, values_of
from storage.schema import BAD

ReadColumn = Callable[[str], Iterator[Column]]
"""Gives a column from its beginning, a part at a time; no part is empty."""


def digest_of_rows(rows: Rows) -> str:
    """The sha256 over ids and content of samples."""
    return digest_of_parts(rows, num_rows(rows), lambda name: iter([rows[name]]))


def digest_of_parts(names: Iterable[str], count: int, read: ReadColumn) -> str:
    """The same of samples that are read part by part, a column after the other.

    Costs 8 bytes a sample where lengths vary, and the memory of a part.

    Args:
        names: of the columns; their order does not matter.
        count: how many samples there are.
        read: gives the parts of a column; called up to twice for each.
    """
    state = hashlib.sha256()
    for name in sorted(names):
        if name == BAD and not any(any(values_of(part)) for part in read(name)):
            continue  # nothing was wrong: the same samples as where nobody looked
        for piece in _pieces(name, count, read):
            state.update(piece)
    return state.hexdigest()


def _pieces(name: str, count: int, read: ReadColumn) -> Iterator[bytes | memoryview]:
    first = next(read(name))
    values = values_of(first)
    total = count
    lengths = b""
    if isinstance(first, Ragged):
        parts = [part.lengths_B for part in read(name) if isinstance(part, Ragged)]
        lengths_B = np.concatenate(parts)
        total, lengths = int(lengths_B.sum()), lengths_B.tobytes()
    yield canonical_json([name, values.dtype.str, (total, *values.shape[1:])])
    yield lengths
    if not is_text(values):
        for part in read(name):
            yield np.ascontiguousarray(values_of(part)).reshape(-1).data
        return
    separator = b"["
    for part in read(name):
        yield separator + canonical_json([str(value) for value in values_of(part)])[1:-1]
        separator = b","
    yield b"]"
