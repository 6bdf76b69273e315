"""The columns of a shard: their names, their types, and which of them hold what.

For one position a sample the label columns are plain lists of K (or T) numbers; for blocks they
are flat lists, position by position. In the layouts `fast` and `compact` the entries are bytes (see
`storage.entries`); all other columns are the same in every layout. Readers ignore columns that
they do not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa

from storage import entries
from storage.feature_columns import feature_type
from storage.identity import canonical_json
from storage.options import Layout
from storage.rows import INPUT
from storage.spec import STATISTICS as STATISTICS
from storage.spec import LabelSetSpec

SAMPLE_ID: Final = "sample_id"
VIEW: Final = "view"
VIEW_SEED: Final = "view_seed"
LABEL: Final = "label"
MASK: Final = "mask"
BAD: Final = "bad"
"""Of samples in memory, why one could not be made; "" where nothing is wrong."""
INDEX: Final = entries.INDEX
LOGIT: Final = entries.LOGIT
COUNT: Final = entries.COUNT
KEPT: Final = "kept"
REST: Final = "rest"
STD: Final = "std"
"""The temperature of each position where the rest is stored at `std` too."""
LABEL_LOGIT: Final = "label_logit"

METADATA_KEY: Final = b"softlabel"
NO_LABEL: Final = -100
"""The hard label of a position that has none; torch's losses pass over it."""


def input_column(name: str) -> str:
    """The column that holds the input `name`."""
    return f"{INPUT}{name}"


def columns(spec: LabelSetSpec, split: str) -> list[str]:
    """The columns that the rows of a split have in memory."""
    selection = spec.selections[split]
    names = [SAMPLE_ID, *view_columns(spec, split)]
    names += [input_column(entry.name) for entry in spec.inputs]
    names += entries.names(selection)
    names += [KEPT] if selection.varies else []
    return [*names, *widths(spec), *spec.features_of(split)]


def view_columns(spec: LabelSetSpec, split: str) -> list[str]:
    """The columns that tell the views of a sample apart, where a split has them."""
    return [VIEW, VIEW_SEED] if spec.has_views(split) else []


def widths(spec: LabelSetSpec) -> dict[str, int | None]:
    """The label columns beside the entries: values of a position, None for a single number."""
    found: dict[str, int | None] = {REST: len(spec.temperatures)}
    if spec.has_std:
        found[STD] = None
    if spec.has_label:
        found |= {LABEL: None, LABEL_LOGIT: None}
    if spec.has_many_positions:
        found[MASK] = None
    if spec.statistics:
        found |= dict.fromkeys(STATISTICS)
    return found


def stored_columns(spec: LabelSetSpec, split: str, wanted: Iterable[str]) -> list[str]:
    """The columns of a shard that are read to have the `wanted` columns in memory."""
    selection = spec.selections[split]
    found: list[str] = []
    for name in wanted:
        if name == KEPT and not spec.has_many_positions:
            found += entries.stored_names(INDEX, spec, selection)[:1]
        elif name in entries.names(selection):
            found += entries.stored_names(name, spec, selection)
            found += [KEPT] if selection.varies and spec.has_many_positions else []
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def arrow_schema(spec: LabelSetSpec, split: str) -> pa.Schema:
    """The Arrow schema of a split's shards; its metadata hold the specification as JSON."""
    selection = spec.selections[split]
    fields = [pa.field(SAMPLE_ID, pa.string(), nullable=False)]
    fields += [_field(name, DTYPES[name], plain=True) for name in view_columns(spec, split)]
    for spec_input in spec.inputs:
        plain = spec_input.shape == ()
        fields.append(_field(input_column(spec_input.name), np.dtype(spec_input.dtype), plain))
    for name in entries.names(selection):
        kind = _entries_type(name, spec, split)
        stored = entries.stored_names(name, spec, selection)
        fields += [pa.field(part, kind, nullable=False) for part in stored]
    if selection.varies and spec.has_many_positions:
        fields.append(_field(KEPT, kept_dtype(spec, split), plain=False))
    for name, width in widths(spec).items():
        plain = width is None and not spec.has_many_positions
        fields.append(_field(name, DTYPES[name], plain))
    for name, feature in spec.features_of(split).items():
        kind = feature_type(feature.numbers, as_list=spec.layout is Layout.PLAIN)
        fields.append(pa.field(name, kind, nullable=False))
    return pa.schema(fields, metadata={METADATA_KEY: canonical_json(spec.model_dump(mode="json"))})


_FLOATS = dict.fromkeys((REST, STD, LABEL_LOGIT, *STATISTICS), np.dtype(np.float32))
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    **_FLOATS,
    LABEL: np.dtype(np.int32),
    MASK: np.dtype(np.bool_),
    VIEW: np.dtype(np.int32),
    VIEW_SEED: np.dtype(np.int64),
}
"""The number types of the columns beside ids, inputs and entries."""


def kept_dtype(spec: LabelSetSpec, split: str) -> np.dtype[Any]:
    """The number type of the column that says how many entries a position has."""
    return np.min_scalar_type(spec.selections[split].k)


def _entries_type(name: str, spec: LabelSetSpec, split: str) -> pa.DataType:
    selection = spec.selections[split]
    dtype = entries.stored_dtype(name, spec, selection)
    if spec.layout is Layout.PLAIN:
        return pa.list_(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False))
    if selection.varies or spec.has_many_positions:
        return pa.binary()
    return pa.binary(selection.k * dtype.itemsize)


def _field(name: str, dtype: np.dtype[Any], plain: bool) -> pa.Field:
    kind = pa.from_numpy_dtype(dtype)
    kind = kind if plain else pa.list_(pa.field("element", kind, nullable=False))
    return pa.field(name, kind, nullable=False)
