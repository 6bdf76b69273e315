"""Where the user's columns come from: files at any fsspec URL, or a Python callable.

Everything ends as numpy columns: an array [N, ...] where all samples have one shape, a `Ragged`
where their lengths differ.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa

from storage import layout
from storage.errors import DataError, IntegrityError, one_line
from storage.files import Folder
from storage.identity import Json, digest_of_bytes, fingerprint
from storage.places import is_shipped, locate
from storage.records import read_record, write_record
from storage.rows import Column, Ragged
from storage.targets import is_target, load_target

_CHANGES: Final = (
    "mtime", "created", "updated", "etag", "lastmodified", "last_modified", "last-modified",
)  # fmt: skip
"""What file systems call the thing that changes with a file, in lower case."""

_READERS: Final[dict[str, Callable[[io.BytesIO], pl.DataFrame]]] = {
    ".parquet": pl.read_parquet,
    # Types are inferred from all rows: whole numbers may turn into fractions far down.
    ".csv": partial(pl.read_csv, infer_schema_length=None),
    ".jsonl": partial(pl.read_ndjson, infer_schema_length=None),
    ".ndjson": partial(pl.read_ndjson, infer_schema_length=None),
    ".arrow": pl.read_ipc,
    ".feather": pl.read_ipc,
}


def resolve(source: str, folder: Path) -> str:
    """A source as it can be opened: a path is relative to the recipe's `folder`."""
    if is_shipped(source):
        return locate(source)
    if is_target(source) or "://" in source or "::" in source:
        return source
    return str((folder / Path(source).expanduser()).resolve())


def stamp(source: str, version: str | None) -> Json | None:
    """What changes when a source changes, without reading it; None where nothing can tell.

    For a file: path, size, and time or etag. For a target: its file and the recipe's `version`.
    """
    if is_target(source):
        return _target_stamp(source, version)
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
        info = filesystem.info(path)
    except Exception as error:
        raise DataError(f"{source!r} cannot be opened: {_reason(error)}") from error
    changes = {key: str(info[key]) for key in info if key.lower() in _CHANGES}
    return {"source": source, "size": info.get("size"), **changes} if changes else None


def read_source(url: str) -> bytes:
    """The content of a file outside the store, such as a teacher's weights.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    try:
        with fsspec.open(url, "rb") as file:
            return bytes(file.read())
    except Exception as error:
        raise DataError(f"{url!r} cannot be read: {_reason(error)}") from error


def digest_of_source(store: Folder, url: str) -> str:
    """The sha256 of an outside file, kept by its path, size and time, so that it is read once."""
    known = {"stamp": stamp(url, None)}
    if known["stamp"] is None:
        return digest_of_bytes(read_source(url))
    name = layout.file_digest(fingerprint(known))
    if store.exists(name):
        with contextlib.suppress(IntegrityError, KeyError):
            return str(read_record(store, name)["sha256"])
    sha256 = digest_of_bytes(read_source(url))
    write_record(store, name, {**known, "sha256": sha256})
    return sha256


def load_columns(source: str, wanted: Iterable[str]) -> dict[str, Column]:
    """The wanted columns of a source.

    Raises:
        DataError: the source cannot be read, or has no such column.
    """
    content = _call(source) if is_target(source) else _read_file(source)
    table = _as_mapping(content, source)
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
    if 0 in lengths.values():
        raise DataError(f"data.source {source!r} has no rows")
    return columns


def _call(target: str) -> Any:
    function = load_target(target)
    try:
        return function()
    except Exception as error:
        raise DataError(
            f"the target {target!r} failed: {type(error).__name__}: {one_line(error)}"
        ) from error


def _target_stamp(source: str, version: str | None) -> Json | None:
    if version is None:
        return None
    file = _module_file(source.partition(":")[0])
    when = file.stat().st_mtime_ns if file and file.is_file() else None
    return {"source": source, "version": version, "mtime": when}


def _module_file(name: str) -> Path | None:
    """The file of a module, without importing the packages that it lies in."""
    path: Sequence[str] | None = None
    spec = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return Path(spec.origin) if spec and spec.origin else None


def _read_file(source: str) -> pl.DataFrame:
    suffix = PurePosixPath(source.split("?")[0]).suffix.lower()
    if suffix not in _READERS:
        raise DataError(
            f"data.source {source!r} ends in {suffix!r}; expected one of {', '.join(_READERS)}, "
            "or a target package.module:name"
        )
    try:
        with fsspec.open(source, "rb") as file:
            return _READERS[suffix](io.BytesIO(file.read()))
    except Exception as error:
        raise DataError(f"data.source {source!r} cannot be read: {_reason(error)}") from error


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


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return one_line(error)
