"""Numbers as Arrow lists or bytes, one value a sample, and back, without Python rows.

Shape letters: B samples, E numbers of all samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.errors import IntegrityError, RecipeError
from storage.rows import Array


def numbers_to_arrow(values: Array, lengths_B: NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    """Numbers [E] as lists, or as bytes, so many for each sample."""
    if pa.types.is_list(kind):
        return list_array(values, lengths_B, kind)
    data = pa.py_buffer(np.ascontiguousarray(values, values.dtype.newbyteorder("<")))
    if pa.types.is_fixed_size_binary(kind):
        return pa.Array.from_buffers(kind, len(lengths_B), [None, data])
    offsets = pa.py_buffer(_offsets(lengths_B * values.itemsize))
    return pa.Array.from_buffers(kind, len(lengths_B), [None, offsets, data])


def list_array(values: Array, lengths: NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    """Values as lists, so many for each sample.

    Raises:
        RecipeError: they are too many for one column.
    """
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array(_offsets(lengths)), flat, type=kind)


def numbers_from_arrow(array: pa.Array, dtype: np.dtype[Any]) -> tuple[Array, NDArray[np.int32]]:
    """All numbers of a column of lists or bytes, and where those of each sample begin and end.

    Raises:
        IntegrityError: values are missing, or are no whole numbers of bytes.
    """
    if array.null_count:
        raise IntegrityError("a column of entries has missing values")
    buffers = array.buffers()
    count = len(array)
    if pa.types.is_fixed_size_binary(array.type):
        width = array.type.byte_width
        start, size = array.offset * width, count * width
        bounds = np.arange(count + 1, dtype=np.int32) * np.int32(width // dtype.itemsize)
        return _numbers(buffers[1], dtype, start, size), bounds
    offsets = np.frombuffer(buffers[1], np.int32, count + 1, array.offset * 4)
    bounds = offsets - offsets[0]
    if pa.types.is_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False), bounds
    if dtype.itemsize > 1:
        if (bounds % dtype.itemsize).any():
            raise IntegrityError(f"bytes of entries that are no multiple of {dtype.itemsize}")
        bounds //= np.int32(dtype.itemsize)
    size = int(bounds[-1]) * dtype.itemsize
    return _numbers(buffers[2], dtype, int(offsets[0]), size), bounds


def flat_list(array: pa.ListArray) -> tuple[Array, NDArray[np.int64]]:
    """All values of a column of lists, and how many each sample has."""
    values = array.flatten().to_numpy(zero_copy_only=False)
    return values, np.asarray(array.value_lengths()).astype(np.int64)


def one_array(table: pa.Table, name: str) -> pa.Array:
    """A column of a table, its chunks put together."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _numbers(data: pa.Buffer | None, dtype: np.dtype[Any], start: int, size: int) -> Array:
    if data is None or size == 0:
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype.newbyteorder("<"), size // dtype.itemsize, start)


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise RecipeError(
            f"labels.positions_per_shard: a column of one shard would hold {offsets[-1]} values, "
            f"more than the {np.iinfo(np.int32).max} that fit; lower it"
        )
    return offsets.astype(np.int32)
