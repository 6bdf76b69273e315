"""Writing one shard: the file first, then its record. One function writes shards, and this is it.

Costs the memory of one shard. Whatever stops it, either a record with its whole file is there or
the shard counts as not made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage import layout, schema
from storage.files import Folder
from storage.identity import canonical_json, digest_of_bytes, digest_of_digests
from storage.records import ShardRecord, write_record
from storage.rows import Ragged, Rows, num_rows
from storage.spec import LabelSetSpec
from storage.tables import digest_of_table

_ZSTD_LEVEL = 3


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


def write_shard(
    folder: Folder,
    plan: ShardPlan,
    spec: LabelSetSpec,
    rows: Rows,
    fidelity: dict[str, Any],
) -> ShardRecord:
    """Commit a shard to the label set at `folder`; overwriting an equal one changes nothing.

    Raises:
        StoreError: it cannot be written; then it counts as not made.
    """
    table = schema.encode(rows, spec, plan.split)
    groups = row_groups(_positions(rows), spec.positions_per_row_group)
    content = _parquet_bytes(table, groups)
    content_digest = _content_digest(table, groups)
    name = layout.shard_file(plan.split, plan.ordinal, content_digest)
    record = ShardRecord(
        fingerprint=plan.fingerprint,
        split=plan.split,
        ordinal=plan.ordinal,
        file=name,
        rows=table.num_rows,
        positions=int(_positions(rows).sum()),
        row_groups=tuple(groups),
        size_bytes=len(content),
        sha256=digest_of_bytes(content),
        content_digest=content_digest,
        first_id=table.column(schema.SAMPLE_ID)[0].as_py(),
        last_id=table.column(schema.SAMPLE_ID)[-1].as_py(),
        fidelity=fidelity,
    )
    folder.write_bytes(f"{layout.SHARDS}/{name}", content)
    write_record(folder, plan.record_name, record)
    return record


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


def _content_digest(table: pa.Table, groups: list[int]) -> str:
    return digest_of_digests([digest_of_bytes(canonical_json(groups)), digest_of_table(table)])


def _parquet_bytes(table: pa.Table, groups: list[int]) -> bytes:
    sink = pa.BufferOutputStream()
    split_columns = [
        f"{field.name}.list.element"
        for field in table.schema
        if field.name in (schema.INDEX, schema.LOGIT, schema.REST)
        and field.type.value_type.byte_width > 1
    ]
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        use_dictionary=False,
        use_byte_stream_split=split_columns or False,
        write_page_checksum=True,
    ) as writer:
        start = 0
        for rows in groups:
            writer.write_table(table.slice(start, rows), row_group_size=max(rows, 1))
            start += rows
    return bytes(sink.getvalue())
