"""Opening one shard: its bytes against its record, its claims against its size, then its Parquet.

What a file says of itself is believed only after that, and never used to reserve memory that the
record and the size of the file do not bear out. Neither is its footer: each page says anew how
large it is. From afar the pages of files above 16 MiB are not looked at, for each would be a
request; of these the footer is taken at its word.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage import layout
from storage.codebook import Codebook
from storage.errors import IntegrityError, StoreError
from storage.files import Folder
from storage.legality import impossible
from storage.pages import VALUE_BYTES, unpacked_bytes
from storage.records import ShardRecord
from storage.schema import arrow_schema
from storage.spec import LabelSetSpec

_PIECE_BYTES: Final = 32 << 20
_HELD_BYTES: Final = 16 << 20
_MOST_EXPANSION: Final = 1000
_ALWAYS_ALLOWED_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class OpenShard:
    """A shard that is being read, and what its numbers stand for."""

    parquet: pq.ParquetFile
    codebook: Codebook

    def close(self) -> None:
        """Close the file."""
        self.parquet.close(force=True)


def shard_name(shard: ShardRecord) -> str:
    """The name of a shard's file below its label set."""
    return f"{layout.SHARDS}/{shard.file}"


def check_bytes(folder: Folder, shard: ShardRecord) -> bytes | None:
    """Compare a shard's file with the size and the sha256 of its record.

    Returns:
        The content where it is small and comes from afar, so that it need not be fetched again.

    Raises:
        IntegrityError: the bytes are not those that were written, or the file is gone.
    """
    state = hashlib.sha256()
    size = 0
    held = None
    try:
        for piece in _pieces(folder, shard):
            state.update(piece)
            size += len(piece)
            if not folder.is_local and size == shard.size_bytes <= _HELD_BYTES:
                held = piece
    except StoreError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise IntegrityError(
            f"{folder.url_of(shard_name(shard))} is missing; "
            f"run: softlabel verify {folder.url} --repair"
        ) from error
    if size != shard.size_bytes or state.hexdigest() != shard.sha256:
        came = f"{size} bytes" if size <= shard.size_bytes else "more bytes"
        raise IntegrityError(
            f"{folder.url_of(shard_name(shard))} is damaged: expected {shard.size_bytes} bytes "
            f"with sha256 {shard.sha256[:12]}, got {came} with {state.hexdigest()[:12]}; "
            f"run: softlabel verify {folder.url} --repair"
        )
    return held


def open_shard(
    folder: Folder,
    shard: ShardRecord,
    spec: LabelSetSpec,
    content: bytes | None = None,
    *,
    seen: bool = False,
) -> OpenShard:
    """Open a shard whose bytes were checked.

    Args:
        folder: the label set.
        shard: its record.
        spec: the form of the set.
        content: the file, where it is at hand.
        seen: it was opened before, so that what it says of itself need not be looked at again.

    Raises:
        IntegrityError: it claims more than its record and its size bear out.
        pyarrow.ArrowException: it is no Parquet file.
    """
    name = shard_name(shard)
    source: Any = f"{folder.path}/{name}"
    if content is not None:
        source = pa.BufferReader(content)
    elif not folder.is_local:
        source = folder.open_file(name, shard.size_bytes)
    try:
        with _at_hand(folder, name, content) as file:
            return _open(source, file, shard, spec, seen=seen)
    except (IntegrityError, UnicodeDecodeError) as error:
        said = "a column's name is no text" if isinstance(error, UnicodeDecodeError) else error
        raise IntegrityError(
            f"{folder.url_of(name)}: {said}; run: softlabel verify {folder.url} --repair"
        ) from error


def _open(
    source: Any, file: BinaryIO | None, shard: ShardRecord, spec: LabelSetSpec, *, seen: bool
) -> OpenShard:
    problem = impossible(spec)
    if problem:
        raise IntegrityError(f"its specification cannot be: {problem}")
    parquet = pq.ParquetFile(source, page_checksum_verification=True)
    try:
        if not seen:
            _require_groups(parquet.metadata, shard)
            _require_plausible(parquet.metadata, shard, file)
            _require_columns(parquet.schema_arrow, arrow_schema(spec, shard.split))
        book = Codebook.from_metadata(parquet.metadata.metadata or {}, spec.num_classes)
    except BaseException:
        parquet.close(force=True)
        raise
    return OpenShard(parquet, book)


@contextlib.contextmanager
def _at_hand(folder: Folder, name: str, content: bytes | None) -> Iterator[BinaryIO | None]:
    """The file, where looking at a few bytes of it costs no request."""
    if content is not None:
        yield io.BytesIO(content)
    elif folder.is_local:
        with Path(folder.path, name).open("rb") as file:
            yield file
    else:
        yield None


def _pieces(folder: Folder, shard: ShardRecord) -> Iterator[bytes]:
    """The file piece by piece, and one byte more if it has more than it should."""
    asked = shard.size_bytes + 1
    file = folder.open_file(shard_name(shard), asked)
    while asked > 0:
        # The last piece is never that one byte alone: S3 refuses to read where a file ends.
        size = _PIECE_BYTES if asked > _PIECE_BYTES + 1 else asked
        piece = file.read(size)
        yield piece
        if len(piece) < size:
            return
        asked -= size


def _require_groups(metadata: Any, shard: ShardRecord) -> None:
    """Refuse other row groups than the record says."""
    rows = tuple(metadata.row_group(place).num_rows for place in range(metadata.num_row_groups))
    if rows != shard.row_groups:
        raise IntegrityError(
            f"it has row groups of {_said(rows)} rows, its record says {_said(shard.row_groups)}"
        )


def _require_plausible(metadata: Any, shard: ShardRecord, file: BinaryIO | None) -> None:
    """Refuse sizes that no shard has, before anything of that size is reserved."""
    allowed = _MOST_EXPANSION * shard.size_bytes + _ALWAYS_ALLOWED_BYTES
    groups = range(metadata.num_row_groups)
    claimed = sum(metadata.row_group(place).total_byte_size for place in groups)
    held = None
    if file is not None and claimed <= allowed:
        held = list(unpacked_bytes(file, shard.size_bytes))
        claimed = sum(held)
    if claimed > allowed:
        raise IntegrityError(
            f"it claims to hold {claimed} bytes in {shard.size_bytes}, which no shard does"
        )
    if held is not None:
        _require_rows(held, metadata.num_columns, shard)


def _require_rows(held: Sequence[int], num_columns: int, shard: ShardRecord) -> None:
    """Refuse more rows than the pages hold values: memory is reserved for as many as are said."""
    expected = [rows * VALUE_BYTES for rows in shard.row_groups for _ in range(num_columns)]
    if len(held) != len(expected) or any(a < b for a, b in zip(held, expected, strict=True)):
        raise IntegrityError(f"it claims to hold {shard.rows} rows, its pages hold fewer")


def _require_columns(found: pa.Schema, expected: pa.Schema) -> None:
    """Refuse columns of another type than the specification says; further ones are passed over."""
    for field in expected:
        place = found.get_field_index(field.name)
        came = found.field(place) if place >= 0 else None
        if came is None or not came.equals(field):
            raise IntegrityError(
                f"expected the column {field.name} of {_type(field)}, got "
                f"{_type(came) if came else 'none'}"
            )


def _type(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


def _said(rows: tuple[int, ...], most: int = 5) -> str:
    return ", ".join(map(str, rows[:most])) + (", ..." if len(rows) > most else "")
