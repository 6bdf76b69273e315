"""Columns that hold a list of numbers for each sample."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from storage.errors import DataError
from storage.rows import Column, Ragged, values_of


def as_ragged(column: Column) -> Ragged:
    """Lists of one length, [B, L], as lists whose length could vary."""
    if isinstance(column, Ragged):
        return column
    return Ragged(column.reshape(-1), np.full(len(column), column.shape[1], np.int64))


def as_blocks(name: str, column: Column) -> Ragged:
    """One list of numbers a sample.

    Raises:
        DataError: the column `name` holds something else.
    """
    if values_of(column).ndim != (1 if isinstance(column, Ragged) else 2):
        raise DataError(f"data: the column {name!r} must hold one list of numbers a sample")
    return as_ragged(column)


def require_same_lengths(columns: Mapping[str, Column]) -> None:
    """All lists of a sample are as long as that of the first column which has any.

    Raises:
        DataError: they are not.
    """
    lengths = [(n, c.lengths_B) for n, c in columns.items() if isinstance(c, Ragged)]
    for name, lengths_B in lengths[1:]:
        if not np.array_equal(lengths_B, lengths[0][1]):
            raise DataError(f"data: the lists of {name!r} are not as long as those of the inputs")
