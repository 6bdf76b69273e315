"""Samples on the local disk: written once in their order, then read in any range.

An Arrow file of batches that all hold the same number of rows, but the last. Lists are kept as
lists, whether their lengths turn out to vary or not. Nothing is mapped into memory, so that what is
read costs what it holds and no more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from storage.rows import Column, Ragged, Rows, is_text, num_rows, values_of
from storage.scratch import scratch_error

MOST_ROWS: Final = 1024
_BATCH_BYTES: Final = 4 << 20
_COMPRESSION: Final = "lz4"


@dataclass(frozen=True)
class SpoolFile:
    """A file of samples.

    Attributes:
        path: where it lies.
        rows: how many samples it holds.
        rows_per_batch: and how many each of its batches, but the last.
    """

    path: Path
    rows: int
    rows_per_batch: int


class SpoolWriter:
    """Writes samples to a file, some at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = 0
        self._rows_per_batch = 0
        self._waiting: list[pa.RecordBatch] = []
        self._num_waiting = 0
        self._writer: Any = None

    def append(self, rows: Rows) -> None:
        """The samples that come next.

        Raises:
            StoreError: they cannot be written.
        """
        if not self._rows_per_batch:
            size = sum(values_of(column).nbytes for column in rows.values())
            fitting = _BATCH_BYTES * num_rows(rows) // max(size, 1)
            # A power of two: ranges that begin at multiples of 1024 then need no batch twice.
            self._rows_per_batch = 1 << (min(max(fitting, 1), MOST_ROWS).bit_length() - 1)
        self._waiting.append(_to_batch(rows))
        self._num_waiting += num_rows(rows)
        self._rows += num_rows(rows)
        if self._num_waiting >= self._rows_per_batch:
            self._flush(self._num_waiting - self._num_waiting % self._rows_per_batch)

    def finish(self) -> SpoolFile:
        """Write what is left, and close the file.

        Raises:
            StoreError: it cannot be written.
        """
        self._flush(self._num_waiting)
        self._close()
        return SpoolFile(self._path, self._rows, self._rows_per_batch)

    def _flush(self, count: int) -> None:
        """Write the first `count` of the rows that wait."""
        if not count:
            return
        try:
            table = pa.Table.from_batches(self._waiting)
            if self._writer is None:
                options = pa.ipc.IpcWriteOptions(compression=_COMPRESSION, use_threads=False)
                self._writer = pa.ipc.new_file(str(self._path), table.schema, options=options)
            for start in range(0, count, self._rows_per_batch):
                part = table.slice(start, min(self._rows_per_batch, count - start))
                self._writer.write_batch(part.combine_chunks().to_batches()[0])
        except OSError as error:
            raise scratch_error(self._path.parent, error) from error
        self._waiting = table.slice(count).to_batches()
        self._num_waiting -= count

    def _close(self) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
        except OSError as error:
            raise scratch_error(self._path.parent, error) from error


class SpoolReader:
    """Reads ranges of a file, some of its columns; threads may share it."""

    def __init__(self, file: SpoolFile, columns: Sequence[str]) -> None:
        self._file = file
        self._handle = pa.OSFile(str(file.path), "rb")
        names = pa.ipc.open_file(self._handle).schema.names
        options = pa.ipc.IpcReadOptions(
            included_fields=[names.index(name) for name in columns], use_threads=False
        )
        self._reader = pa.ipc.open_file(self._handle, options=options)
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """The samples from `start` to `stop`, in batches."""
        size = self._file.rows_per_batch
        for place in range(start // size, -(-stop // size)):
            with self._lock:
                batch = self._reader.get_batch(place)
            first = place * size
            begin = max(start - first, 0)
            yield batch.slice(begin, min(stop - first, batch.num_rows) - begin)

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


def _to_batch(rows: Rows) -> pa.RecordBatch:
    arrays = [_to_arrow(column) for column in rows.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(rows))


def _to_arrow(column: Column) -> pa.Array:
    values = values_of(column)
    if is_text(values):
        return pa.array(values, pa.string())
    if isinstance(column, Ragged):
        offsets = np.concatenate([[0], np.cumsum(column.lengths_B)])
    elif column.ndim == 1:
        return pa.array(column)
    else:
        width = int(np.prod(column.shape[1:], dtype=np.int64))
        offsets = np.arange(len(column) + 1) * width
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
