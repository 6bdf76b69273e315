"""Which split each sample belongs to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from storage.errors import DataError
from storage.meaning import Meaning
from storage.options import SPLIT_NAME_PATTERN, DataOptions, SplitOptions
from storage.preparation import SPLIT, Chunk
from storage.rows import Array, Column, Rows, take
from storage.schema import SAMPLE_ID

_SPLIT_NAME = re.compile(SPLIT_NAME_PATTERN)


def divide(rows: dict[str, Column], chunk: Chunk, meaning: Meaning) -> Iterator[tuple[str, Rows]]:
    """The samples of each split among those of a chunk.

    Args:
        rows: the samples.
        chunk: the columns that they were made of.
        meaning: what these stand for, and the split that all of them belong to, if to one.

    Raises:
        DataError: the name of a split can be none.
    """
    if meaning.split:
        yield meaning.split, rows
        return
    splits = meaning.options.splits
    if splits.fractions is not None:
        given = chunk.get(SPLIT) if meaning.is_prepared else None
        chosen = split_by_hash(np.asarray(rows[SAMPLE_ID]), splits) if given is None else given
        for name in sorted(splits.fractions):
            yield name, take(rows, np.flatnonzero(np.asarray(chosen) == name))
        return
    column = splits.column
    assert column is not None
    labels = np.array([str(value) for value in np.asarray(chunk[column])])
    for name in map(str, np.unique(labels)):
        if not _SPLIT_NAME.fullmatch(name):
            raise DataError(
                f"data.splits.column: {column!r} holds {name[:40]!r}; the name of a split "
                "has up to 40 of a-z, 0-9 and _"
            )
        yield name, take(rows, np.flatnonzero(labels == name))


def split_by_hash(ids: Iterable[str], splits: SplitOptions) -> Array:
    """The name of the split of each id, by its hash; of `splits.fractions`.

    The order in which a recipe says the shares does not matter.
    """
    assert splits.fractions is not None
    names = sorted(splits.fractions)
    shares = [splits.fractions[name] for name in names]
    return np.array(names, dtype=object)[_hashed(ids, splits.salt, shares)]


def names_of_splits(found: Iterable[str], options: DataOptions) -> list[str]:
    """All splits in their order: that of the recipe where each has a source, else by name."""
    said = options.source if isinstance(options.source, dict) else options.splits.fractions
    names = [*(said or ()), *(name for name in found if name not in (said or ()))]
    return names if isinstance(options.source, dict) else sorted(names)


def _hashed(ids: Iterable[str], salt: str, shares: list[float]) -> NDArray[np.int64]:
    """The split of each id: its hash as a number in [0, 1), among the cumulated shares."""
    places = np.array(
        [int.from_bytes(hashlib.sha256(f"{salt}/{name}".encode()).digest()[:7]) for name in ids],
        dtype=np.float64,
    )
    bounds = np.cumsum(shares)[:-1]
    return np.searchsorted(bounds, places / 2.0**56, side="right")
