"""From numpy rows to the Arrow table of a shard, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage import entries
from storage.codebook import Codebook
from storage.entries import INDEX, Entries
from storage.errors import IntegrityError, RecipeError
from storage.rows import Array, Column, Ragged, Rows, values_of
from storage.schema import (
    DTYPES,
    KEPT,
    LABEL,
    SAMPLE_ID,
    VIEW,
    VIEW_SEED,
    arrow_schema,
    input_column,
    kept_dtype,
    widths,
)
from storage.spec import InputSpec, LabelSetSpec


@dataclass(frozen=True)
class EncodedRows:
    """The table of a shard, and what is needed to read its numbers."""

    table: pa.Table
    codebook: Codebook


def encode(rows: Rows, spec: LabelSetSpec, split: str) -> EncodedRows:
    """Rows as a table of the split's schema; entries go through the set's codec and layout.

    Raises:
        RecipeError: the shard is too large for the lists of one column.
    """
    schema = arrow_schema(spec, split)
    selection = spec.selections[split]
    values = {name: values_of(rows[name]) for name in entries.names(selection)}
    kept_N = values_of(rows[KEPT]) if selection.varies else None
    stored, codebook = entries.encode(Entries(values, kept_N), spec, selection)
    lengths_B = _entries_of_samples(rows, selection.k)
    arrays = []
    for field in schema:
        if field.name in stored:
            arrays.append(_entries_to_arrow(stored[field.name], lengths_B, field.type))
            continue
        column = rows[field.name]
        dtype = kept_dtype(spec, split) if field.name == KEPT else DTYPES.get(field.name)
        if dtype is not None:
            column = _map(column, lambda values, to=dtype: values.astype(to))
        arrays.append(_to_arrow(column, field.type))
    return EncodedRows(pa.Table.from_arrays(arrays, schema=schema), codebook)


def decode(
    table: pa.Table,
    spec: LabelSetSpec,
    split: str,
    wanted: Iterable[str],
    codebook: Codebook,
) -> dict[str, Column]:
    """The wanted columns of a table as rows: ids int64, logits float32.

    Raises:
        IntegrityError: a column does not have the shape that the specification says.
    """
    inputs = {input_column(entry.name): entry for entry in spec.inputs}
    label_widths = widths(spec)
    asked = list(wanted)
    decoded = _decode_entries(table, spec, split, asked, codebook)
    rows: dict[str, Column] = {}
    for name in asked:
        if name in decoded:
            rows[name] = decoded[name]
            continue
        array = _chunk(table, name)
        if name == SAMPLE_ID:
            rows[name] = array.to_numpy(zero_copy_only=False)
        elif name in inputs:
            rows[name] = _decode_input(array, inputs[name])
        elif name in (VIEW, VIEW_SEED):
            rows[name] = array.to_numpy(zero_copy_only=False)
        else:
            rows[name] = _decode_label(name, array, label_widths[name], spec.has_many_positions)
    return rows


def _entries_of_samples(rows: Rows, k: int) -> NDArray[np.int64]:
    """How many entries each sample has."""
    if KEPT not in rows:
        index = rows[INDEX]
        return index.lengths_B * k if isinstance(index, Ragged) else np.full(len(index), k)
    kept = rows[KEPT]
    if not isinstance(kept, Ragged):
        return kept.astype(np.int64)
    ends: NDArray[np.int64] = np.concatenate([[0], np.cumsum(kept.values_NW, dtype=np.int64)])
    stops = np.cumsum(kept.lengths_B)
    lengths: NDArray[np.int64] = ends[stops] - ends[stops - kept.lengths_B]
    return lengths


def _entries_to_arrow(values: Array, lengths_B: NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind):
        return _list_array(values, lengths_B, kind)
    data = pa.py_buffer(np.ascontiguousarray(values, values.dtype.newbyteorder("<")))
    if pa.types.is_fixed_size_binary(kind):
        return pa.Array.from_buffers(kind, len(lengths_B), [None, data])
    offsets = pa.py_buffer(_offsets(lengths_B * values.itemsize))
    return pa.Array.from_buffers(kind, len(lengths_B), [None, offsets, data])


def _decode_entries(
    table: pa.Table, spec: LabelSetSpec, split: str, asked: list[str], codebook: Codebook
) -> dict[str, Column]:
    selection = spec.selections[split]
    wanted = [name for name in asked if name in entries.names(selection)]
    if not wanted and KEPT not in asked:
        return {}
    stored: dict[str, Array] = {}
    bounds: NDArray[np.int32] | None = None
    there = table.column_names
    for name in wanted or entries.names(selection)[:1]:
        dtype = entries.stored_dtype(name, spec, selection)
        for part in entries.stored_names(name, spec, selection):
            if part not in there:
                continue
            stored[part], found = _flat_entries(_chunk(table, part), dtype)
            if bounds is not None and bounds.tobytes() != found.tobytes():
                raise IntegrityError(f"the column {part!r} has other lengths than the others")
            bounds = found
    lengths_B = None if bounds is None else (bounds[1:] - bounds[:-1]).astype(np.int64)
    kept, per_sample_B = _positions_of(table, spec, split, lengths_B)
    kept_N = None if kept is None else values_of(kept)
    if kept_N is not None and len(kept_N) and (kept_N.min() < 1 or kept_N.max() > selection.k):
        raise IntegrityError(
            f"a position keeps {kept_N.min()} to {kept_N.max()} entries, expected 1 to "
            f"{selection.k}"
        )
    decoded = entries.decode(stored, wanted, kept_N, spec, selection, codebook)
    columns: dict[str, Column] = {
        name: values if per_sample_B is None else Ragged(values, per_sample_B)
        for name, values in decoded.items()
    }
    if KEPT in asked and kept is not None:
        columns[KEPT] = kept
    return columns


def _positions_of(
    table: pa.Table, spec: LabelSetSpec, split: str, lengths_B: NDArray[np.int64] | None
) -> tuple[Column | None, NDArray[np.int64] | None]:
    """The entries of each position where they vary, and the positions of each sample of blocks."""
    selection = spec.selections[split]
    if not selection.varies:
        assert lengths_B is not None
        if (lengths_B % selection.k).any() or (
            not spec.has_many_positions and (lengths_B != selection.k).any()
        ):
            raise IntegrityError(f"a sample has no multiple of {selection.k} entries")
        return None, lengths_B // selection.k if spec.has_many_positions else None
    if not spec.has_many_positions:
        return lengths_B, None
    values, per_sample_B = _flat(_chunk(table, KEPT))
    kept = Ragged(values.astype(np.int64), per_sample_B)
    if lengths_B is not None and not np.array_equal(
        _entries_of_samples({KEPT: kept}, selection.k), lengths_B
    ):
        raise IntegrityError(f"the column {KEPT!r} says other numbers of entries than there are")
    return kept, per_sample_B


def _chunk(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _flat_entries(array: pa.Array, dtype: np.dtype[Any]) -> tuple[Array, NDArray[np.int32]]:
    """All values of a stored column of entries, and where those of each sample begin and end."""
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


def _numbers(data: pa.Buffer | None, dtype: np.dtype[Any], start: int, size: int) -> Array:
    if data is None or size == 0:
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype.newbyteorder("<"), size // dtype.itemsize, start)


def _map(column: Column, change: Any) -> Column:
    if isinstance(column, Ragged):
        return Ragged(change(column.values_NW), column.lengths_B)
    return change(column)  # type: ignore[no-any-return]


def _to_arrow(column: Column, kind: pa.DataType) -> pa.Array:
    if isinstance(column, Ragged):
        width = int(np.prod(column.values_NW.shape[1:], dtype=np.int64))
        return _list_array(column.values_NW, column.lengths_B * width, kind)
    if not pa.types.is_list(kind):
        return pa.array(column, type=kind)
    width = int(np.prod(column.shape[1:], dtype=np.int64))
    return _list_array(column, np.full(len(column), width, np.int64), kind)


def _list_array(values: Array, lengths: NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array(_offsets(lengths)), flat, type=kind)


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise RecipeError(
            f"labels.positions_per_shard: a column of one shard would hold {offsets[-1]} values, "
            f"more than the {np.iinfo(np.int32).max} that fit; lower it"
        )
    return offsets.astype(np.int32)


def _decode_input(array: pa.Array, spec: InputSpec) -> Column:
    if spec.shape == ():
        return np.asarray(array.to_numpy(zero_copy_only=False))
    values, lengths = _flat(array)
    if spec.shape is None:
        return Ragged(values, lengths)
    return _shaped(spec.name, values, lengths, spec.shape)


def _decode_label(name: str, array: pa.Array, width: int | None, many: bool) -> Column:
    if width is None and not many:
        return _widened(name, np.asarray(array.to_numpy(zero_copy_only=False)))
    values, lengths = _flat(array)
    values = _widened(name, values)
    if not many:
        return _shaped(name, values, lengths, (width or 1,))
    if width is None:
        return Ragged(values, lengths)
    if (lengths % width).any():
        raise IntegrityError(f"the column {name!r} holds lists that are no multiple of {width}")
    return Ragged(values.reshape(-1, width), lengths // width)


def _shaped(name: str, values: Array, lengths: NDArray[np.int64], shape: tuple[int, ...]) -> Array:
    if (lengths != np.prod(shape)).any():
        raise IntegrityError(f"the column {name!r} holds lists of another length than {shape}")
    return values.reshape(-1, *shape)


def _widened(name: str, values: Array) -> Array:
    return values.astype(np.int64) if name == LABEL else values


def _flat(array: pa.ListArray) -> tuple[Array, NDArray[np.int64]]:
    values = array.flatten().to_numpy(zero_copy_only=False)
    return values, np.asarray(array.value_lengths()).astype(np.int64)
