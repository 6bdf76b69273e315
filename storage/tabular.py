"""Tables in files, read a chunk at a time: Parquet, Arrow, CSV and JSON lines at any fsspec URL.

The columns of all files of a source have one type. In CSV and JSON lines it is inferred from all
rows: whole numbers may turn into fractions far down. Parquet and Arrow are read where they lie; the
others are looked over, then parsed in parts, and fetched into a scratch folder first where they lie
elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from storage.errors import DataError, one_line
from storage.scratch import Scratch

CHUNK_BYTES: Final = 16 << 20
CHUNK_ROWS: Final = 16384
"""A chunk has so many rows at most, and about so many bytes."""
_BUFFER_BYTES: Final = 1 << 20

SUFFIXES: Final = (".parquet", ".csv", ".jsonl", ".ndjson", ".arrow", ".feather")


@dataclass(frozen=True)
class SourceFile:
    """A file of a source.

    Attributes:
        filesystem: where it lies.
        path: its path there.
        said: how it is called in messages.
    """

    filesystem: Any
    path: str
    said: str

    @property
    def suffix(self) -> str:
        """The end of its name, in lower case."""
        return PurePosixPath(self.path.split("?")[0]).suffix.lower()

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine."""
        return isinstance(self.filesystem, LocalFileSystem)


@dataclass(frozen=True)
class _Table:
    """An open file.

    Attributes:
        schema: its columns.
        batches: gives the rows of some columns, in order.
        close: lets go of it.
        is_costly: opening it again would cost another look at all rows.
    """

    schema: pa.Schema
    batches: Callable[[list[str]], Iterator[pa.RecordBatch]]
    close: Callable[[], None]
    is_costly: bool = False


def require_suffix(file: SourceFile) -> None:
    """Refuse a file that is none of the formats.

    Raises:
        DataError: naming those that there are.
    """
    if file.suffix not in SUFFIXES:
        raise DataError(
            f"data.source {file.said!r} ends in {file.suffix!r}; expected one of "
            f"{', '.join(SUFFIXES)}, or a target package.module:name"
        )


def read_tables(files: Sequence[SourceFile], wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The wanted columns of all files, one after the other.

    Raises:
        DataError: a file cannot be read, has no such column, or holds it as another type.
    """
    kept: dict[str, _Table] = {}
    with ExitStack() as stack:
        types = _types(files, wanted, kept, stack) if len(files) > 1 else None
        for file in files:
            table = kept.pop(file.path, None) or _open(file)
            try:
                _require_columns(file, table.schema, wanted)
                for batch in _batches(file, table, wanted):
                    if batch.num_rows:
                        yield batch if types is None else _cast(batch, types, file)
            finally:
                table.close()


def _batches(file: SourceFile, table: _Table, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from table.batches(list(wanted))
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(file, error) from error


def _open(file: SourceFile) -> _Table:
    try:
        return _OPENERS[file.suffix](file)
    except Exception as error:
        raise _unreadable(file, error) from error


def _unreadable(file: SourceFile, error: Exception) -> DataError:
    missing = isinstance(error, FileNotFoundError)
    why = "there is no such file" if missing else one_line(error)
    return DataError(f"data.source {file.said!r} cannot be read: {why}")


def _require_columns(file: SourceFile, schema: pa.Schema, wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in schema.names:
            raise DataError(
                f"data.source {file.said!r} has no column {name!r}; it has: "
                f"{', '.join(schema.names)}"
            )


def _types(
    files: Sequence[SourceFile], wanted: Sequence[str], kept: dict[str, _Table], stack: ExitStack
) -> pa.Schema:
    """The type that each column has in all files: fractions where some hold whole numbers.

    Tables that are costly to open are put into `kept`, and closed with `stack` at the latest.
    """
    found: pa.Schema | None = None
    for file in files:
        table = _open(file)
        if table.is_costly:
            kept[file.path] = table
            stack.callback(table.close)
        else:
            table.close()
        _require_columns(file, table.schema, wanted)
        own = pa.schema([(name, _decoded(table.schema.field(name).type)) for name in wanted])
        try:
            found = (
                own
                if found is None
                else pa.unify_schemas([found, own], promote_options="permissive")
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"data.source: {file.said!r} does not fit to {files[0].said!r}: {one_line(error)}"
            ) from error
    assert found is not None
    return found


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _cast(batch: pa.RecordBatch, types: pa.Schema, file: SourceFile) -> pa.RecordBatch:
    try:
        columns = [batch.column(field.name).cast(field.type) for field in types]
    except pa.ArrowException as error:
        raise _unreadable(file, error) from error
    return pa.RecordBatch.from_arrays(columns, schema=types)


def _open_parquet(file: SourceFile) -> _Table:
    handle: Any = file.path if file.is_local else file.filesystem.open(file.path, "rb")
    parquet = pq.ParquetFile(handle, buffer_size=_BUFFER_BYTES, pre_buffer=False)

    def batches(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        metadata = parquet.metadata
        groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        rows = rows_of_chunk(size, metadata.num_rows)
        yield from parquet.iter_batches(batch_size=rows, columns=wanted, use_threads=True)

    def close() -> None:
        parquet.close(force=True)

    return _Table(parquet.schema_arrow, batches, close)


def _open_arrow(file: SourceFile) -> _Table:
    handle: Any = (
        pa.memory_map(file.path) if file.is_local else file.filesystem.open(file.path, "rb")
    )
    reader = pa.ipc.open_file(handle)

    def batches(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        for place in range(reader.num_record_batches):
            batch = reader.get_batch(place).select(wanted)
            rows = rows_of_chunk(batch.nbytes, batch.num_rows)
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)

    return _Table(reader.schema, batches, handle.close)


def _open_text(scan: Callable[..., pl.LazyFrame], file: SourceFile) -> _Table:
    scratch = None if file.is_local else Scratch()
    path = Path(file.path) if scratch is None else scratch.path / f"table{file.suffix}"
    try:
        if scratch is not None:
            with file.filesystem.open(file.path, "rb") as there, path.open("wb") as here:
                shutil.copyfileobj(there, here, _BUFFER_BYTES)
        types = scan(path, infer_schema_length=None).collect_schema()
    except BaseException:
        if scratch is not None:
            scratch.remove()
        raise

    def batches(wanted: list[str]) -> Iterator[pa.RecordBatch]:
        frame = scan(path, schema=types).select(wanted)
        for part in frame.collect_batches(chunk_size=CHUNK_ROWS, lazy=True):
            yield from part.to_arrow().to_batches()

    empty = pl.DataFrame(schema=types).to_arrow()
    close = scratch.remove if scratch is not None else lambda: None
    return _Table(empty.schema, batches, close, is_costly=True)


def rows_of_chunk(size_bytes: int, rows: int) -> int:
    """How many rows of a table of that size are about a chunk."""
    per_row = max(size_bytes // max(rows, 1), 1)
    return int(min(max(CHUNK_BYTES // per_row, 1), CHUNK_ROWS))


_OPENERS: Final[dict[str, Callable[[SourceFile], _Table]]] = {
    ".parquet": _open_parquet,
    ".arrow": _open_arrow,
    ".feather": _open_arrow,
    ".csv": partial(_open_text, partial(pl.scan_csv, glob=False)),
    ".jsonl": partial(_open_text, pl.scan_ndjson),
    ".ndjson": partial(_open_text, pl.scan_ndjson),
}
