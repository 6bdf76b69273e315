"""Rows of a label set in memory: numpy columns, never Python rows.

A column is an array whose first axis runs over the samples, or a `Ragged` where their lengths
vary: the values of all samples one after the other, and the length of each. Rows with the column
`mask` are blocks: their label columns have a value for each token. All other rows are one position
each, however long their inputs are.

Shape letters: B samples, N positions of all samples, W values of a position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INPUT: Final = "input."
"""What the name of a column of inputs begins with."""


@dataclass(frozen=True)
class Ragged:
    """A column with a varying number of positions for each sample.

    Attributes:
        values_NW: the values of all positions, sample by sample; [N] or [N, W].
        lengths_B: positions of each sample, int64.
    """

    values_NW: Array
    lengths_B: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths_B)

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """The samples at `rows`, in that order."""
        starts = np.cumsum(self.lengths_B) - self.lengths_B
        lengths = self.lengths_B[rows]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Ragged(self.values_NW[np.repeat(starts[rows], lengths) + within], lengths)

    def part(self, start: int, stop: int) -> Ragged:
        """The samples from `start` to `stop`, without a copy."""
        first = int(self.lengths_B[:start].sum())
        lengths_B = self.lengths_B[start:stop]
        return Ragged(self.values_NW[first : first + int(lengths_B.sum())], lengths_B)

    def padded(self, length: int, fill: float | bool) -> Array:
        """The values as [B, length] or [B, length, W], with `fill` where a sample has ended.

        Where all samples have that length, without a copy.
        """
        shape = (len(self), length, *self.values_NW.shape[1:])
        if len(self.values_NW) == len(self) * length and (self.lengths_B == length).all():
            return self.values_NW.reshape(shape)
        block = np.full(shape, fill, dtype=self.values_NW.dtype)
        block[np.arange(length) < self.lengths_B[:, None]] = self.values_NW
        return block


Column = Array | Ragged
Rows = Mapping[str, Column]
"""Columns by name, all with the same number of samples."""


def values_of(column: Column) -> Array:
    """The values of a column, sample by sample, whether their number varies or not."""
    return column.values_NW if isinstance(column, Ragged) else column


def num_rows(rows: Rows) -> int:
    """How many samples there are."""
    return len(next(iter(rows.values())))


def lengths_of(rows: Rows) -> NDArray[np.int64] | None:
    """The length of each sample's inputs, which all have the same; None where no input varies."""
    for name, column in rows.items():
        if name.startswith(INPUT) and isinstance(column, Ragged):
            return column.lengths_B
    return None


def is_text(values: Array) -> bool:
    """Whether a column holds text."""
    return values.dtype.kind in "OUST"


def part(rows: Rows, start: int, stop: int) -> dict[str, Column]:
    """The samples from `start` to `stop`, without a copy."""
    return {
        name: column.part(start, stop) if isinstance(column, Ragged) else column[start:stop]
        for name, column in rows.items()
    }


def take(rows: Rows, chosen: NDArray[np.int64]) -> dict[str, Column]:
    """The samples at `chosen`, in that order."""
    return {
        name: column.take(chosen) if isinstance(column, Ragged) else column[chosen]
        for name, column in rows.items()
    }


def concatenate(parts: Sequence[Rows]) -> dict[str, Column]:
    """All samples of `parts`, one after the other; entries are padded to the widest part."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def gather(
    parts: Sequence[Rows], rows: NDArray[np.int64], size: int
) -> Iterator[dict[str, Column]]:
    """The samples at `rows` of all samples of `parts`, in that order, `size` at a time.

    The same as taking them of the concatenation, which is made only where lengths vary.
    """
    sizes = [*map(num_rows, parts)]
    blocks = {name: _blocks([part[name] for part in parts]) for name in parts[0]}
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        places = by_part(sizes, some)
        yield {name: _gathered(block, some, places) for name, block in blocks.items()}


Places = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""For each part, which of its samples come, in their stored order, and where each goes."""


def by_part(sizes: Sequence[int], rows: NDArray[np.int64]) -> Places:
    """Which of the samples of each part come, of parts of such sizes one after the other."""
    starts = np.cumsum([0, *sizes])
    by_row = np.argsort(rows)
    sorted_rows = rows[by_row]
    bounds = np.searchsorted(sorted_rows, starts)
    return [
        (sorted_rows[first:last] - start, by_row[first:last])
        for start, first, last in zip(starts[:-1], bounds[:-1], bounds[1:], strict=True)
    ]


@dataclass(frozen=True)
class _Blocks:
    """A column of several parts whose samples all have the same shape."""

    arrays: Sequence[Array]
    is_ragged: bool


def _blocks(columns: Sequence[Column]) -> _Blocks | Column:
    """The parts of a column; joined where the shapes of their samples vary."""
    blocks = [block for block in map(_block, columns) if block is not None]
    alike = {(block.dtype, block.shape[1:]) for block in blocks}
    if len(blocks) == len(columns) and len(alike) == 1:
        return _Blocks(blocks, isinstance(columns[0], Ragged))
    return _joined(columns)


def _gathered(column: _Blocks | Column, rows: NDArray[np.int64], places: Places) -> Column:
    if not isinstance(column, _Blocks):
        return column.take(rows) if isinstance(column, Ragged) else column[rows]
    shape = column.arrays[0].shape[1:]
    found = np.empty((len(rows), *shape), column.arrays[0].dtype)
    for block, (chosen, where) in zip(column.arrays, places, strict=True):
        if len(chosen):
            found[where] = block[chosen]
    if not column.is_ragged:
        return found
    return Ragged(found.reshape(-1, *shape[1:]), np.full(len(rows), shape[0], np.int64))


def _block(column: Column) -> Array | None:
    """A column as an array of one row a sample, without a copy; None where lengths vary."""
    if not isinstance(column, Ragged):
        return column
    length = int(column.lengths_B[0]) if len(column) else 0
    if not (column.lengths_B == length).all():
        return None
    return column.values_NW.reshape(len(column), length, *column.values_NW.shape[1:])


def _joined(columns: Sequence[Column]) -> Column:
    ragged = [column for column in columns if isinstance(column, Ragged)]
    if ragged:
        return Ragged(
            _stacked([column.values_NW for column in ragged]),
            np.concatenate([column.lengths_B for column in ragged]),
        )
    return _stacked([column for column in columns if not isinstance(column, Ragged)])


def _stacked(arrays: Sequence[Array]) -> Array:
    """Arrays one after the other; where their entries vary, padded with -inf, or 0 for ids.

    Maps of varying length, [B, H, N, N], are padded with 0.
    """
    if arrays[0].ndim == 4 and len({array.shape[1:] for array in arrays}) > 1:
        return _stacked_maps(arrays)
    if arrays[0].ndim != 2 or len({array.shape[1] for array in arrays}) == 1:
        return np.concatenate(arrays)
    fill = -np.inf if arrays[0].dtype.kind == "f" else 0
    shape = (sum(map(len, arrays)), max(array.shape[1] for array in arrays))
    stacked = np.full(shape, fill, arrays[0].dtype)
    start = 0
    for array in arrays:
        stacked[start : start + len(array), : array.shape[1]] = array
        start += len(array)
    return stacked


def _stacked_maps(arrays: Sequence[Array]) -> Array:
    longest = max(array.shape[3] for array in arrays)
    shape = (sum(map(len, arrays)), arrays[0].shape[1], longest, longest)
    stacked = np.zeros(shape, arrays[0].dtype)
    start = 0
    for array in arrays:
        length = array.shape[3]
        stacked[start : start + len(array), :, :length, :length] = array
        start += len(array)
    return stacked
