"""The digest of a table's content, whatever its chunks, slices and encodings."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.identity import canonical_json


def digest_of_table(table: pa.Table) -> str:
    """The sha256 over the names, types and values of a table's columns.

    It depends neither on chunking, slicing and padding of the buffers nor on the schema's
    metadata. The values of null entries do not count.

    Raises:
        TypeError: a column is of a type whose values have no fixed bytes (a struct, a decimal).
    """
    state = hashlib.sha256()
    for field, column in zip(table.schema, table.columns, strict=True):
        state.update(canonical_json([field.name, str(field.type)]))
        _hash_array(state, column.combine_chunks() if column.num_chunks != 1 else column.chunk(0))
    return state.hexdigest()


def _hash_array(state: hashlib._Hash, array: pa.Array) -> None:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.nulls(0, array.type)
    state.update(canonical_json([len(array), array.null_count]))
    if array.null_count:
        state.update(np.asarray(array.is_null()).tobytes())
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        state.update(_lengths(array))
        _hash_array(state, array.flatten())
    elif pa.types.is_fixed_size_list(kind):
        _hash_array(state, array.flatten())
    elif pa.types.is_dictionary(kind):
        _hash_array(state, array.dictionary_decode())
    elif _is_text(kind):
        values = array.drop_null().cast(pa.large_binary())
        state.update(np.asarray(pc.binary_length(values)).astype(np.int64).tobytes())
        state.update(_content(values))
    else:
        values = array.drop_null().to_numpy(zero_copy_only=False)
        if values.dtype.hasobject and len(values):
            raise TypeError(f"a column of {kind} has no digest")
        state.update(np.ascontiguousarray(values).tobytes())


def _content(array: pa.Array) -> memoryview:
    """The bytes of all values, one after the other."""
    if len(array) == 0:  # it may have no offsets at all
        return memoryview(b"")
    offsets = np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, array.offset * 8)
    data = array.buffers()[2]
    return memoryview(data if data is not None else b"")[int(offsets[0]) : int(offsets[-1])]


def _is_text(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_fixed_size_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
    )
    return any(test(kind) for test in tests)


def _lengths(array: pa.Array) -> bytes:
    return np.asarray(array.value_lengths().fill_null(0).cast(pa.int64())).tobytes()
