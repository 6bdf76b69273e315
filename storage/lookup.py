"""Looking codes up in a table, by Arrow's kernel: several times as fast as numpy's `take`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import IntegrityError
from storage.rows import Array


def look_up(table: pa.Array, codes: Array) -> Array:
    """The entries of `table` at `codes`: a new, writable array of the codes' shape.

    Codes of one or two bytes are not checked where the table is as long as they can say.

    Raises:
        IntegrityError: a code is beyond the table.
    """
    flat = np.ascontiguousarray(codes).reshape(-1)
    places = pa.Array.from_buffers(
        pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)]
    )
    safe = flat.itemsize < np.dtype(np.uint32).itemsize and len(table) > np.iinfo(flat.dtype).max
    try:
        found = pc.take(table, places, boundscheck=not safe)
    except pa.ArrowIndexError as error:
        raise IntegrityError(
            f"a code of {flat.max()}, where the table has {len(table)} entries"
        ) from error
    dtype: Any = table.type.to_pandas_dtype()
    return np.frombuffer(found.buffers()[1], dtype, len(flat)).reshape(codes.shape)
