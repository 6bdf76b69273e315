"""What the bytes of a label set are spent on, from the footers of its shards.

The parts of a shard sum to the size of its file: what is neither of the named parts, such as hard
labels, sample ids and the footer itself, is `other`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage import schema
from storage.codebook import FEATURES_KEY, IDS_KEY, LEVELS_KEY
from storage.errors import IntegrityError, SoftlabelError, one_line
from storage.reader import LabelSet
from storage.records import ShardRecord
from storage.shards import shard_name

PARTS: Final = ("ids", "values", "rest", "inputs", "features", "other")
_MOST_REMOTE_FOOTERS: Final = 32
_PART_OF: Final = {
    schema.INDEX: "ids",
    schema.COUNT: "ids",
    schema.LOGIT: "values",
    schema.REST: "rest",
    "input": "inputs",
    "feature": "features",
}
_PART_OF_METADATA: Final = {IDS_KEY: "ids", LEVELS_KEY: "values", FEATURES_KEY: "features"}


@dataclass(frozen=True)
class PartSizes:
    """What some shards hold.

    Attributes:
        bytes: by part.
        positions: of the shards that were looked at.
        shards_read: how many were looked at, evenly spread.
        shards: how many there are.
    """

    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    positions: int = 0
    shards_read: int = 0
    shards: int = 0

    def per_position(self) -> dict[str, float]:
        """Bytes of a position, by part."""
        return {part: size / max(self.positions, 1) for part, size in self.bytes.items()}

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "bytes_by_part": self.bytes,
            "bytes_per_position_by_part": self.per_position(),
            "footers_read": self.shards_read,
            "shards": self.shards,
        }


def part_sizes(labels: LabelSet, split: str) -> PartSizes:
    """The bytes of a split by part; from afar, of at most 32 of its shards.

    Raises:
        IntegrityError: a shard's footer is damaged.
        StoreError: a shard cannot be read.
    """
    shards = labels.shards(split)
    looked_at = shards if labels.folder.is_local else _evenly(shards, _MOST_REMOTE_FOOTERS)
    return PartSizes(
        bytes=_added(_of_shard(labels, shard) for shard in looked_at),
        positions=sum(shard.positions for shard in looked_at),
        shards_read=len(looked_at),
        shards=len(shards),
    )


def together(sizes: Sequence[PartSizes]) -> PartSizes:
    """What several splits hold."""
    return PartSizes(
        bytes=_added(entry.bytes for entry in sizes),
        positions=sum(entry.positions for entry in sizes),
        shards_read=sum(entry.shards_read for entry in sizes),
        shards=sum(entry.shards for entry in sizes),
    )


def _of_shard(labels: LabelSet, shard: ShardRecord) -> dict[str, int]:
    try:
        metadata = _footer(labels, shard)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, SoftlabelError):
            raise
        raise IntegrityError(
            f"{labels.url_of(shard)} cannot be read: {one_line(error)}; "
            f"run: softlabel verify {labels.folder.url} --repair"
        ) from error
    found = dict.fromkeys(PARTS, 0)
    for place in range(metadata.num_row_groups):
        group = metadata.row_group(place)
        for number in range(group.num_columns):
            column = group.column(number)
            name = column.path_in_schema.partition(".")[0]
            found[_PART_OF.get(name, "other")] += column.total_compressed_size
    for key, value in (metadata.metadata or {}).items():
        if key in _PART_OF_METADATA:
            found[_PART_OF_METADATA[key]] += len(key) + len(value)
    found["other"] += shard.size_bytes - sum(found.values())
    return found


def _footer(labels: LabelSet, shard: ShardRecord) -> Any:
    folder = labels.folder
    if folder.is_local:
        return pq.read_metadata(f"{folder.path}/{shard_name(shard)}")
    return pq.read_metadata(folder.open_file(shard_name(shard), shard.size_bytes))


def _added(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = dict.fromkeys(PARTS, 0)
    for entry in parts:
        for part, size in entry.items():
            total[part] += size
    return total


def _evenly(shards: Sequence[ShardRecord], most: int) -> Sequence[ShardRecord]:
    if len(shards) <= most:
        return shards
    return [shards[place * (len(shards) - 1) // (most - 1)] for place in range(most)]
