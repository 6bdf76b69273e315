"""The user's columns, a chunk of rows at a time: out of files, or of Python callables.

Everything ends as numpy columns: an array [B, ...] where all samples of a chunk have one shape, a
`Ragged` where their lengths differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from storage.errors import DataError, one_line
from storage.preparation import Chunk
from storage.rows import Column, Ragged, num_rows, part, values_of
from storage.sources import files_of
from storage.tabular import read_tables, require_suffix, rows_of_chunk
from storage.targets import is_target, load_target


def read_chunks(sources: Sequence[str], wanted: Sequence[str]) -> Iterator[Chunk]:
    """The wanted columns of some sources, one after the other, a chunk of rows at a time.

    Args:
        sources: files, patterns or targets, as `resolve` gives them.
        wanted: names of columns.

    Raises:
        DataError: a source cannot be read, has no such column, or there are no rows.
    """
    there_are_rows = False
    for of_targets, group in groupby(sources, is_target):
        for chunk in (_target_chunks if of_targets else _file_chunks)(group, wanted):
            there_are_rows = True
            yield chunk
    if not there_are_rows:
        said = ", ".join(map(repr, sources))
        raise DataError(f"data.source {said} has no rows")


def _file_chunks(sources: Iterable[str], wanted: Sequence[str]) -> Iterator[Chunk]:
    files = [file for source in sources for file in files_of(source)]
    for file in files:
        require_suffix(file)
    said = files[0].said if len(files) == 1 else f"{files[0].said}, ..."
    for batch in read_tables(files, wanted):
        yield {name: _to_column(batch.column(name), name, said) for name in wanted}


def _target_chunks(targets: Iterable[str], wanted: Sequence[str]) -> Iterator[Chunk]:
    for target in targets:
        for content in _contents(target):
            columns = _wanted_columns(_as_mapping(content, target), wanted, target)
            count = num_rows(columns)
            size = sum(values_of(column).nbytes for column in columns.values())
            step = rows_of_chunk(size, count)
            for start in range(0, count, step):
                yield part(columns, start, min(start + step, count))


def _contents(target: str) -> Iterator[Any]:
    """What a target returns; where that is an iterator, what it gives."""
    content = _call(target)
    if not isinstance(content, Iterator):
        yield content
        return
    try:
        yield from content
    except Exception as error:
        raise _failed(target, error) from error


def _wanted_columns(
    table: Mapping[str, Any], wanted: Sequence[str], source: str
) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for name in wanted:
        if name not in table:
            raise DataError(
                f"data.source {source!r} has no column {name!r}; it has: {', '.join(table)}"
            )
        columns[name] = _to_column(table[name], name, source)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns of {source!r} differ in length: {lengths}")
    return columns


def _call(target: str) -> Any:
    function = load_target(target)
    try:
        return function()
    except Exception as error:
        raise _failed(target, error) from error


def _failed(target: str, error: Exception) -> DataError:
    return DataError(f"the target {target!r} failed: {type(error).__name__}: {one_line(error)}")


def _as_mapping(content: Any, source: str) -> Mapping[str, Any]:
    if isinstance(content, pa.Table):
        return {name: content.column(name) for name in content.column_names}
    if isinstance(content, pl.DataFrame):
        return {series.name: series.to_arrow() for series in content.iter_columns()}
    if isinstance(content, Mapping):
        return content
    if hasattr(content, "columns") and hasattr(content, "to_dict"):
        return {str(name): content[name].to_numpy() for name in content.columns}
    raise DataError(
        f"the target {source!r} returned {type(content).__name__}; expected a mapping of columns, "
        "or a pyarrow, polars or pandas table"
    )


def _to_column(values: Any, name: str, source: str) -> Column:
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        try:
            values = pa.array(_plain(values))
        except (pa.ArrowException, TypeError) as error:
            raise DataError(f"column {name!r} of {source!r}: {one_line(error)}") from error
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.chunks else pa.array([], values.type)
    if values.null_count:
        raise DataError(f"column {name!r} of {source!r} has {values.null_count} missing values")
    return _from_arrow(values, name, source)


def _plain(values: Any) -> list[Any]:
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in values]


def _from_arrow(array: pa.Array, name: str, source: str) -> Column:
    if not _is_list(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    fixed = pa.types.is_fixed_size_list(array.type)
    lengths = np.full(len(array), array.type.list_size) if fixed else array.value_lengths()
    lengths = np.asarray(lengths).astype(np.int64)
    inner = array.flatten()
    if inner.null_count:
        raise DataError(f"column {name!r} of {source!r} has missing values inside its lists")
    values = _from_arrow(inner, name, source)
    if isinstance(values, Ragged):
        raise DataError(f"column {name!r} of {source!r} has lists of lists of uneven lengths")
    if len(lengths) and (lengths == lengths[0]).all():
        return values.reshape(len(lengths), int(lengths[0]), *values.shape[1:])
    return Ragged(values, lengths)


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)
