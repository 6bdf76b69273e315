"""Writing one shard: the file first, then the list of what it leaves out, then its record.

One function writes shards, and this is it. Costs the memory of one shard. Whatever stops
it, either a record with its whole file is there or the shard counts as not made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage import entries, layout, schema
from storage.codebook import Codebook
from storage.encoding import EncodedRows, encode
from storage.feature_columns import numbers_of_samples
from storage.features import FEATURE_COLUMN
from storage.files import Folder
from storage.identity import canonical_json, digest_of_bytes, digest_of_digests
from storage.options import Layout
from storage.quarantine import BadSample, write_quarantine
from storage.records import ShardRecord, write_record
from storage.rows import Ragged, Rows, lengths_of, num_rows
from storage.spec import LabelSetSpec
from storage.tables import digest_of_table

FEATURE_BYTES_PER_ROW_GROUP: Final = 16 << 20
"""So that what is read at once stays small however large features are."""
_ZSTD_LEVEL = {Layout.PLAIN: 3, Layout.FAST: 3, Layout.COMPACT: 5}


@dataclass(frozen=True)
class ShardPlan:
    """A shard that has to be there.

    Attributes:
        fingerprint: of the label set and of the ids and content of these samples.
        start: the first sample's place in its split.
        rows: how many samples.
        positions: how many positions they hold.
    """

    fingerprint: str
    split: str
    ordinal: int
    start: int
    rows: int
    positions: int

    @property
    def record_name(self) -> str:
        """The name of its record below the label set."""
        return f"{layout.RECORDS}/{self.record_file}"

    @property
    def record_file(self) -> str:
        """The name of its record in the folder of records."""
        return layout.record_file(self.split, self.ordinal, self.fingerprint)


@dataclass(frozen=True)
class EncodedShard:
    """A shard as it will be written: its bytes, its record, and the samples it leaves out."""

    plan: ShardPlan
    content: bytes
    record: ShardRecord
    bad: tuple[BadSample, ...]


def write_shard(
    folder: Folder,
    plan: ShardPlan,
    spec: LabelSetSpec,
    rows: Rows,
    fidelity: dict[str, Any],
    bad: Sequence[BadSample] = (),
) -> ShardRecord:
    """Commit a shard to the label set at `folder`; overwriting an equal one changes nothing.

    The other arguments are those of `encode_shard`.

    Raises:
        StoreError: it cannot be written; then it counts as not made.
        ValueError: rows and bad samples are not those of the plan together.
    """
    return commit_shard(folder, encode_shard(plan, spec, rows, fidelity, bad))


def encode_shard(
    plan: ShardPlan,
    spec: LabelSetSpec,
    rows: Rows,
    fidelity: dict[str, Any],
    bad: Sequence[BadSample] = (),
    halved_batches: int = 0,
) -> EncodedShard:
    """A shard's bytes and its record.

    Args:
        plan: which shard.
        spec: the form of the set.
        rows: its samples with their labels, but for the bad ones; `{}` where none is left.
        fidelity: of these rows; `{}` where none is left.
        bad: the samples of the plan that are set aside.
        halved_batches: how many batches were computed in halves, for want of memory.

    Raises:
        ValueError: rows and bad samples are not those of the plan together.
    """
    count = num_rows(rows) if rows else 0
    if count + len(bad) != plan.rows:
        raise ValueError(f"expected {plan.rows} samples, got {count} rows and {len(bad)} bad ones")
    positions_B = _positions(rows) if count else np.empty(0, np.int64)
    encoded = encode(rows, spec, plan.split) if count else _without_rows(spec, plan.split)
    groups = groups_of(rows, spec, plan.split) if count else []
    content = parquet_bytes(encoded, groups, spec, plan.split)
    content_digest = _content_digest(encoded, groups)
    ids = encoded.table.column(schema.SAMPLE_ID)
    record = ShardRecord(
        fingerprint=plan.fingerprint,
        split=plan.split,
        ordinal=plan.ordinal,
        file=layout.shard_file(plan.split, plan.ordinal, content_digest),
        rows=count,
        positions=int(positions_B.sum()),
        row_groups=tuple(groups),
        size_bytes=len(content),
        sha256=digest_of_bytes(content),
        content_digest=content_digest,
        first_id=ids[0].as_py() if count else "",
        last_id=ids[-1].as_py() if count else "",
        fidelity=fidelity,
        halved_batches=halved_batches,
    )
    return EncodedShard(plan, content, record, tuple(bad))


def commit_shard(folder: Folder, shard: EncodedShard) -> ShardRecord:
    """Write a shard, the list of samples that it leaves out, and its record, in this order.

    Raises:
        StoreError: it cannot be written; then it counts as not made.
    """
    record = shard.record
    folder.write_bytes(f"{layout.SHARDS}/{record.file}", shard.content)
    if shard.bad:
        file, sha256 = write_quarantine(folder, shard.plan, shard.bad)
        aside = {
            "quarantined": len(shard.bad),
            "quarantine_file": file,
            "quarantine_sha256": sha256,
        }
        record = record.model_copy(update=aside)
    write_record(folder, shard.plan.record_name, record)
    return record


def _without_rows(spec: LabelSetSpec, split: str) -> EncodedRows:
    return EncodedRows(schema.arrow_schema(spec, split).empty_table(), Codebook())


def groups_of(rows: Rows, spec: LabelSetSpec, split: str) -> list[int]:
    """Rows of each row group: at most so many positions, and so many bytes of features."""
    positions_B = _positions(rows)
    limit = spec.positions_per_row_group
    features = spec.features_of(split)
    if features:
        bytes_B = sum(
            numbers_of_samples(rows[name], lengths_of(rows)) * feature.numbers.itemsize
            for name, feature in features.items()
        )
        # A sample counts by the limit of which it takes the larger share.
        most_bytes = FEATURE_BYTES_PER_ROW_GROUP
        positions_B = np.maximum(positions_B * most_bytes, bytes_B * limit)
        limit *= most_bytes
    return row_groups(positions_B, limit)


def row_groups(positions_B: NDArray[np.int64], limit: int) -> list[int]:
    """Rows of each row group: as many as fit into `limit` positions, at least one."""
    return [int(stop - start) for start, stop in ranges(positions_B, limit)]


def ranges(positions_B: NDArray[np.int64], limit: int) -> list[tuple[int, int]]:
    """Contiguous ranges of samples with at most `limit` positions each, and at least one sample.

    A range depends only on the samples before it, so appending changes the last one at most.
    """
    ends = np.cumsum(positions_B)
    found = []
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        found.append((start, stop))
        start = stop
    return found


def _positions(rows: Rows) -> NDArray[np.int64]:
    column = rows[schema.INDEX]
    if isinstance(column, Ragged):
        return column.lengths_B
    return np.ones(num_rows(rows), np.int64)


def parquet_bytes(encoded: EncodedRows, groups: list[int], spec: LabelSetSpec, split: str) -> bytes:
    """A shard's file: row groups of `groups` rows each, the codebook in its metadata."""
    table = encoded.table
    selection = spec.selections[split]
    stored = {
        part
        for name in entries.names(selection)
        for part in entries.stored_names(name, spec, selection)
    }
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression=_compressions(table.schema, stored, spec),
        compression_level=_ZSTD_LEVEL[spec.layout] if spec.layout is not Layout.FAST else None,
        use_dictionary=False,
        use_byte_stream_split=_split_columns(table.schema, stored) or False,
        write_statistics=[schema.SAMPLE_ID],
        write_page_checksum=True,
    ) as writer:
        start = 0
        for rows in groups:
            writer.write_table(table.slice(start, rows), row_group_size=max(rows, 1))
            start += rows
        metadata = encoded.codebook.to_metadata()
        if metadata:
            writer.add_key_value_metadata(metadata)
    content = bytes(sink.getvalue())
    pa.default_memory_pool().release_unused()  # or memory grows with the number of shards
    return content


def _compressions(table_schema: pa.Schema, stored: set[str], spec: LabelSetSpec) -> Any:
    """zstd, but for entries and features in the fast layout: these are not compressed."""
    if spec.layout is not Layout.FAST:
        return "zstd"
    return {_path(field): "none" if _is_bulk(field, stored) else "zstd" for field in table_schema}


def _split_columns(table_schema: pa.Schema, stored: set[str]) -> list[str]:
    """The columns of numbers whose bytes compress better by their place in the number.

    Not those of float16: DuckDB 2.0 does not read them so.
    """
    return [
        _path(field)
        for field in table_schema
        if (_is_bulk(field, stored) or field.name == schema.REST)
        and pa.types.is_list(field.type)
        and field.type.value_type.byte_width > 1
        and not pa.types.is_float16(field.type.value_type)
    ]


def _is_bulk(field: pa.Field, stored: set[str]) -> bool:
    return field.name in stored or str(field.name).startswith(FEATURE_COLUMN)


def _path(field: pa.Field) -> str:
    """How Parquet calls the values of a column."""
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)


def _content_digest(encoded: EncodedRows, groups: list[int]) -> str:
    book = {key.decode(): value.decode() for key, value in encoded.codebook.to_metadata().items()}
    parts = [digest_of_bytes(canonical_json([groups, book])), digest_of_table(encoded.table)]
    return digest_of_digests(parts)
