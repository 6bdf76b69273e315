"""From numpy rows to the Arrow table of a shard, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage import entries
from storage.arrow_lists import (
    flat_list,
    list_array,
    numbers_from_arrow,
    numbers_to_arrow,
    one_array,
)
from storage.codebook import Codebook
from storage.entries import INDEX, Entries
from storage.errors import IntegrityError
from storage.feature_columns import flat_feature, numbers_of_samples, shape_of, shaped_feature
from storage.feature_options import StoredFeature
from storage.rows import Array, Column, Ragged, Rows, lengths_of, values_of
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
    features = spec.features_of(split)
    arrays = []
    for field in schema:
        if field.name in stored:
            arrays.append(numbers_to_arrow(stored[field.name], lengths_B, field.type))
        elif field.name in features:
            arrays.append(_feature_to_arrow(rows, features[field.name], field.type))
        else:
            written = kept_dtype(spec, split) if field.name == KEPT else DTYPES.get(field.name)
            arrays.append(_to_arrow(rows[field.name], written, field.type))
    shapes = {name: shape_of(rows[name], lengths_of(rows)) for name in features}
    table = pa.Table.from_arrays(arrays, schema=schema)
    return EncodedRows(table, replace(codebook, features=shapes))


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
    features = spec.features_of(split)
    asked = list(wanted)
    decoded = _decode_entries(table, spec, split, asked, codebook)
    rows: dict[str, Column] = {}
    for name in asked:
        if name in decoded:
            rows[name] = decoded[name]
            continue
        array = one_array(table, name)
        if name in features:
            rows[name] = _decode_feature(name, array, features[name], codebook)
        elif name == SAMPLE_ID:
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
            stored[part], found = numbers_from_arrow(one_array(table, part), dtype)
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
    values, per_sample_B = flat_list(one_array(table, KEPT))
    kept = Ragged(values.astype(np.int64), per_sample_B)
    if lengths_B is not None and not np.array_equal(
        _entries_of_samples({KEPT: kept}, selection.k), lengths_B
    ):
        raise IntegrityError(f"the column {KEPT!r} says other numbers of entries than there are")
    return kept, per_sample_B


def _to_arrow(column: Column, dtype: np.dtype[Any] | None, kind: pa.DataType) -> pa.Array:
    """A column, its values as `dtype` first where that is said."""
    values = values_of(column)
    values = values if dtype is None else values.astype(dtype)
    width = int(np.prod(values.shape[1:], dtype=np.int64))
    if isinstance(column, Ragged):
        return list_array(values, column.lengths_B * width, kind)
    if not pa.types.is_list(kind):
        return pa.array(values, type=kind)
    return list_array(values, np.full(len(values), width, np.int64), kind)


def _feature_to_arrow(rows: Rows, feature: StoredFeature, kind: pa.DataType) -> pa.Array:
    column, inputs_B = rows[feature.column], lengths_of(rows)
    flat = flat_feature(column, inputs_B).astype(feature.numbers, copy=False)
    return numbers_to_arrow(flat, numbers_of_samples(column, inputs_B), kind)


def _decode_input(array: pa.Array, spec: InputSpec) -> Column:
    if spec.shape == ():
        return np.asarray(array.to_numpy(zero_copy_only=False))
    values, lengths = flat_list(array)
    if spec.shape is None:
        return Ragged(values, lengths)
    return _shaped(spec.name, values, lengths, spec.shape)


def _decode_label(name: str, array: pa.Array, width: int | None, many: bool) -> Column:
    if width is None and not many:
        return _widened(name, np.asarray(array.to_numpy(zero_copy_only=False)))
    values, lengths = flat_list(array)
    values = _widened(name, values)
    if not many:
        return _shaped(name, values, lengths, (width or 1,))
    if width is None:
        return Ragged(values, lengths)
    if (lengths % width).any():
        raise IntegrityError(f"the column {name!r} holds lists that are no multiple of {width}")
    return Ragged(values.reshape(-1, width), lengths // width)


def _decode_feature(
    name: str, array: pa.Array, stored: StoredFeature, codebook: Codebook
) -> Column:
    shape = codebook.features.get(name)
    if shape is None:
        raise IntegrityError(f"the column {name!r} lacks the shape of its values")
    values, bounds = numbers_from_arrow(array, stored.numbers)
    return shaped_feature(name, values, np.diff(bounds).astype(np.int64), shape)


def _shaped(name: str, values: Array, lengths: NDArray[np.int64], shape: tuple[int, ...]) -> Array:
    if (lengths != np.prod(shape)).any():
        raise IntegrityError(f"the column {name!r} holds lists of another length than {shape}")
    return values.reshape(-1, *shape)


def _widened(name: str, values: Array) -> Array:
    return values.astype(np.int64) if name == LABEL else values
