"""Shards that were made up: their record and their sha256 are right, what they say need not be."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage import layout
from storage.identity import digest_of_bytes
from storage.reader import LabelSet
from storage.records import ShardRecord, seal, unseal


def path_of(labels: LabelSet) -> Path:
    """The first shard to train on."""
    return Path(labels.url_of(labels.shards("train")[0]))


def put(labels: LabelSet, content: bytes, **said_too: Any) -> ShardRecord:
    """Put other content in the place of the first shard, and say so in the manifest."""
    path_of(labels).write_bytes(content)
    manifest = Path(labels.folder.path) / layout.MANIFEST
    said = unseal(manifest.read_bytes(), str(manifest))
    change = {"size_bytes": len(content), "sha256": digest_of_bytes(content), **said_too}
    said["shards"][0].update(change)
    manifest.write_bytes(seal(said))
    return labels.shards("train")[0].model_copy(update=change)


def written(table: pa.Table, **options: Any) -> bytes:
    """A table as Parquet, as little of it said as can be."""
    sink = pa.BufferOutputStream()
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False} | options
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue())


def with_small_words(content: bytes, size_bytes: int = 1000) -> bytes:
    """The file, its footer saying that each column, unpacked, is of `size_bytes`."""
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:-8]
    metadata = pq.read_metadata(pa.BufferReader(content))
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    sizes = {group.total_byte_size for group in groups}
    sizes |= {column.total_uncompressed_size for column in columns}
    for size in sizes:
        if size > size_bytes:
            before = varint(2 * size)
            assert footer.count(before) >= 1
            footer = footer.replace(before, varint(2 * size_bytes, len(before)))
    return content[:start] + footer + content[-8:]


def with_rows(content: bytes, before: int, after: int) -> bytes:
    """The file of one row group, its footer saying another number of rows wherever it says one."""
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:-8].replace(varint(2 * before), varint(2 * after))
    return content[:start] + footer + len(footer).to_bytes(4, "little") + content[-4:]


def varint(value: int, length: int = 1) -> bytes:
    """A number as Thrift writes it, in so many bytes at least."""
    out = bytearray()
    while value >> 7 or len(out) + 1 < length:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
