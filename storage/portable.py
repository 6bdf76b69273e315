"""The export `portable`: one row for each position, in columns that any Parquet reader understands.

    sample_id            string
    split                string
    view                 int32, which augmented view of the sample; null in splits without views,
                         and not there where none has any
    position             int32, its place in the sample
    label                int32, the hard label; null where there is none
    mask                 bool, whether the position counts; blocks of tokens only
    class_ids            list of int32, the most probable first
    probabilities        list of float32, at the temperature of the export
    log_probabilities    list of float32, their natural logarithms; -inf where there is no mass
    counts               list of int32, how often each class was drawn; null in splits that are
                         not sampled, and not there where none is
    rest_probability     float32, of all other classes together

The probabilities of a row and its rest sum to 1: nothing is renormalised.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from storage import schema
from storage.options import AnyTemperature, Keep
from storage.positions import Positions, positions_of
from storage.rows import Array, Rows
from storage.spec import LabelSetSpec


def portable_schema(spec: LabelSetSpec) -> pa.Schema:
    """The columns of the export, the same for all splits."""
    fields = [
        _field("sample_id", pa.string()),
        _field("split", pa.string()),
        *([pa.field("view", pa.int32())] if spec.augment else []),
        _field("position", pa.int32()),
        pa.field("label", pa.int32()),
    ]
    if spec.has_many_positions:
        fields.append(_field("mask", pa.bool_()))
    fields += [
        _field("class_ids", _list(pa.int32())),
        _field("probabilities", _list(pa.float32())),
        _field("log_probabilities", _list(pa.float32())),
    ]
    if any(selection.keep is Keep.SAMPLE for selection in spec.selections.values()):
        fields.append(pa.field("counts", _list(pa.int32())))
    return pa.schema([*fields, _field("rest_probability", pa.float32())])


def portable_table(rows: Rows, spec: LabelSetSpec, split: str, at: AnyTemperature) -> pa.Table:
    """Rows of a split as a table of `portable_schema`, at temperature `at`."""
    positions = positions_of(rows, spec, at)
    ids_B = np.asarray(rows[schema.SAMPLE_ID])
    count = len(positions.sample_N)
    columns = {
        "sample_id": pa.array(ids_B[positions.sample_N], pa.string()),
        "split": pa.array([split] * count, pa.string()),
        "position": pa.array(positions.place_N, pa.int32()),
        "label": _label(positions, count),
        "class_ids": _lists(positions.index_NK, positions),
        "probabilities": _lists(np.exp(positions.log_p_NK), positions),
        "log_probabilities": _lists(positions.log_p_NK, positions),
        "rest_probability": pa.array(np.exp(positions.log_rest_N).astype(np.float32)),
    }
    columns["view"] = pa.nulls(count, pa.int32())
    if schema.VIEW in rows:
        columns["view"] = pa.array(np.asarray(rows[schema.VIEW])[positions.sample_N], pa.int32())
    if positions.mask_N is not None:
        columns["mask"] = pa.array(positions.mask_N)
    columns["counts"] = pa.nulls(count, _list(pa.int32()))
    if positions.count_NK is not None:
        columns["counts"] = _lists(positions.count_NK, positions)
    wanted = portable_schema(spec)
    return pa.Table.from_arrays([columns[name] for name in wanted.names], schema=wanted)


def _label(positions: Positions, count: int) -> pa.Array:
    if positions.label_N is None:
        return pa.nulls(count, pa.int32())
    return pa.array(positions.label_N, pa.int32(), mask=positions.label_N < 0)


def _lists(values_NK: Array, positions: Positions) -> pa.Array:
    dtype = np.float32 if values_NK.dtype.kind == "f" else np.int32
    offsets = np.concatenate([[0], np.cumsum(positions.present_NK.sum(axis=1))])
    flat = pa.array(values_NK[positions.present_NK].astype(dtype))
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), flat, type=_list(pa.from_numpy_dtype(dtype))
    )


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False))


def _field(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)
