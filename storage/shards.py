"""Opening one shard: its bytes against its record, its claims against its size, then its Parquet.

What a file says of itself is believed only after that, and never used to reserve memory that the
record and the size of the file do not bear out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage import layout
from storage.codebook import Codebook
from storage.errors import IntegrityError, StoreError
from storage.files import Folder
from storage.records import ShardRecord
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
    folder: Folder, shard: ShardRecord, spec: LabelSetSpec, content: bytes | None = None
) -> OpenShard:
    """Open a shard whose bytes were checked.

    Args:
        folder: the label set.
        shard: its record.
        spec: the form of the set.
        content: the file, where it is at hand.

    Raises:
        IntegrityError: it claims more than its record and its size bear out.
        pyarrow.ArrowException: it is no Parquet file.
    """
    source: Any = f"{folder.path}/{shard_name(shard)}"
    if content is not None:
        source = pa.BufferReader(content)
    elif not folder.is_local:
        source = folder.open_file(shard_name(shard), shard.size_bytes)
    parquet = pq.ParquetFile(source, page_checksum_verification=True)
    try:
        _require_plausible(parquet.metadata, shard)
        book = Codebook.from_metadata(parquet.metadata.metadata or {}, spec.num_classes)
    except BaseException:
        parquet.close(force=True)
        raise
    return OpenShard(parquet, book)


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


def _require_plausible(metadata: Any, shard: ShardRecord) -> None:
    """Refuse other row groups than the record says, and sizes that no shard has."""
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    rows = tuple(group.num_rows for group in groups)
    if rows != shard.row_groups:
        raise IntegrityError(
            f"{shard.file} has row groups of {_said(rows)} rows, its record says "
            f"{_said(shard.row_groups)}"
        )
    claimed = sum(group.total_byte_size for group in groups)
    if claimed > _MOST_EXPANSION * shard.size_bytes + _ALWAYS_ALLOWED_BYTES:
        raise IntegrityError(
            f"{shard.file} claims to hold {claimed} bytes in {shard.size_bytes}: no shard does"
        )


def _said(rows: tuple[int, ...], most: int = 5) -> str:
    return ", ".join(map(str, rows[:most])) + (", ..." if len(rows) > most else "")
