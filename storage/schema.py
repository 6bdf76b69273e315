"""The columns of a shard: from numpy rows to an Arrow table and back.

For one position a sample the label columns are plain lists of K (or T) numbers; for blocks they
are flat lists, position by position. Readers ignore columns that they do not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.codec import decode_logit, encode_logit, index_dtype, logit_dtype
from storage.errors import IntegrityError, RecipeError
from storage.identity import canonical_json
from storage.rows import Array, Column, Ragged, Rows
from storage.spec import InputSpec, LabelSetSpec

SAMPLE_ID: Final = "sample_id"
LABEL: Final = "label"
MASK: Final = "mask"
INDEX: Final = "index"
LOGIT: Final = "logit"
REST: Final = "rest"
LABEL_LOGIT: Final = "label_logit"
MAX_LOGIT: Final = "max_logit"
LOGIT_MEAN: Final = "logit_mean"
LOGIT_STD: Final = "logit_std"
SQUARES: Final = "squares"
STATISTICS: Final = (MAX_LOGIT, LOGIT_MEAN, LOGIT_STD, SQUARES)

METADATA_KEY: Final = b"softlabel"
NO_LABEL: Final = -100
"""The hard label of a position that has none; torch's losses pass over it."""


def input_column(name: str) -> str:
    """The column that holds the input `name`."""
    return f"input.{name}"


def widths(spec: LabelSetSpec, split: str) -> dict[str, int | None]:
    """The label columns of a split: values for each position, None for a single number."""
    columns: dict[str, int | None] = {INDEX: spec.entries[split], LOGIT: spec.entries[split]}
    columns[REST] = len(spec.temperatures)
    if spec.has_label:
        columns |= {LABEL: None, LABEL_LOGIT: None}
    if spec.has_many_positions:
        columns[MASK] = None
    if spec.statistics:
        columns |= dict.fromkeys(STATISTICS)
    return columns


def arrow_schema(spec: LabelSetSpec, split: str) -> pa.Schema:
    """The Arrow schema of a split's shards; its metadata hold the specification as JSON."""
    dtypes = _dtypes(spec)
    fields = [pa.field(SAMPLE_ID, pa.string(), nullable=False)]
    for spec_input in spec.inputs:
        plain = spec_input.shape == ()
        fields.append(_field(input_column(spec_input.name), np.dtype(spec_input.dtype), plain))
    for name, width in widths(spec, split).items():
        plain = width is None and not spec.has_many_positions
        fields.append(_field(name, dtypes[name], plain))
    return pa.schema(fields, metadata={METADATA_KEY: canonical_json(spec.model_dump(mode="json"))})


def encode(rows: Rows, spec: LabelSetSpec, split: str) -> pa.Table:
    """Rows as a table of the split's schema; logits go through the set's codec.

    Raises:
        RecipeError: the shard is too large for the lists of one column.
    """
    schema = arrow_schema(spec, split)
    dtypes = _dtypes(spec)
    arrays = []
    for field in schema:
        column = rows[field.name]
        if field.name == LOGIT:
            column = _map(column, lambda values: encode_logit(values, spec.codec))
        elif field.name in dtypes:
            column = _map(column, lambda values, to=dtypes[field.name]: values.astype(to))
        arrays.append(_to_arrow(column, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def decode(
    table: pa.Table, spec: LabelSetSpec, split: str, columns: Iterable[str]
) -> dict[str, Column]:
    """The named columns of a table as rows: ids int64, logits float32.

    Raises:
        IntegrityError: a column does not have the shape that the specification says.
    """
    label_widths = widths(spec, split)
    inputs = {input_column(entry.name): entry for entry in spec.inputs}
    rows: dict[str, Column] = {}
    for name in columns:
        array = table.column(name).combine_chunks()
        array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
        if name == SAMPLE_ID:
            rows[name] = array.to_numpy(zero_copy_only=False)
        elif name in inputs:
            rows[name] = _decode_input(array, inputs[name])
        else:
            rows[name] = _decode_label(name, array, label_widths[name], spec.has_many_positions)
    return rows


def _dtypes(spec: LabelSetSpec) -> dict[str, np.dtype[Any]]:
    floats: dict[str, np.dtype[Any]] = dict.fromkeys(
        (REST, LABEL_LOGIT, *STATISTICS), np.dtype(np.float32)
    )
    return floats | {
        INDEX: index_dtype(spec.num_classes),
        LOGIT: logit_dtype(spec.codec),
        LABEL: np.dtype(np.int32),
        MASK: np.dtype(np.bool_),
    }


def _field(name: str, dtype: np.dtype[Any], plain: bool) -> pa.Field:
    kind = pa.from_numpy_dtype(dtype)
    kind = kind if plain else pa.list_(pa.field("element", kind, nullable=False))
    return pa.field(name, kind, nullable=False)


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
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise RecipeError(
            f"labels.positions_per_shard: a column of one shard would hold {offsets[-1]} values, "
            f"more than the {np.iinfo(np.int32).max} that fit; lower it"
        )
    offsets = offsets.astype(np.int32)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=kind)


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
    if name == LOGIT:
        return decode_logit(values.astype(np.float32, copy=False))
    return values.astype(np.int64) if name in (INDEX, LABEL) else values


def _flat(array: pa.ListArray) -> tuple[Array, NDArray[np.int64]]:
    values = array.flatten().to_numpy(zero_copy_only=False)
    return values, np.asarray(array.value_lengths()).astype(np.int64)
