"""Samples that were set aside: which ones, and why, in a Parquet file for each shard that has any.

A shard's record says how many of its samples were set aside and where they are listed; its rows are
the others. The file is written after the shard and before the record, so a committed shard has it.

    quarantine/<split>-<ordinal>-<content8>.parquet    sample_id, split, place, reason
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage import layout
from storage.errors import DataError, IntegrityError, one_line
from storage.files import Folder
from storage.identity import digest_of_bytes

if TYPE_CHECKING:
    from storage.records import ShardRecord
    from storage.writer import ShardPlan

_SCHEMA: Final = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class BadSample:
    """A sample that is left out of its shard.

    Attributes:
        place: of its row in the split, counted from 0; where samples have views, each is a row.
        sample_id: its id.
        reason: why, in one line.
    """

    place: int
    sample_id: str
    reason: str


def write_quarantine(folder: Folder, plan: ShardPlan, bad: Sequence[BadSample]) -> tuple[str, str]:
    """List the samples that a shard leaves out, by their places; below the label set at `folder`.

    Returns:
        The name of the file in the folder of quarantines, and its sha256.

    Raises:
        StoreError: it cannot be written.
    """
    ordered = sorted(bad, key=lambda sample: sample.place)
    columns = [
        [sample.sample_id for sample in ordered],
        [plan.split] * len(ordered),
        [sample.place for sample in ordered],
        [_line(sample.reason) for sample in ordered],
    ]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_arrays(list(map(pa.array, columns, _SCHEMA.types)), schema=_SCHEMA)
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content = bytes(sink.getvalue())
    sha256 = digest_of_bytes(content)
    name = layout.quarantine_file(plan.split, plan.ordinal, sha256)
    folder.write_bytes(f"{layout.QUARANTINE}/{name}", content)
    return name, sha256


def read_quarantine(folder: Folder, record: ShardRecord) -> list[BadSample]:
    """The samples that a shard leaves out, by their places.

    Raises:
        IntegrityError: their list is gone, or is not what the record says.
        StoreError: the store cannot be read.
    """
    if record.quarantine_file is None:
        return []
    name = f"{layout.QUARANTINE}/{record.quarantine_file}"
    url = folder.url_of(name)
    if not folder.exists(name):
        raise IntegrityError(f"{url} is missing; run: softlabel verify {folder.url} --repair")
    content = folder.read_bytes(name)
    found = digest_of_bytes(content)
    if found != record.quarantine_sha256:
        raise IntegrityError(
            f"{url} is damaged: expected sha256 {str(record.quarantine_sha256)[:12]}, got "
            f"{found[:12]}; run: softlabel verify {folder.url} --repair"
        )
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{url} cannot be read: {one_line(error)}") from error
    if table.schema != _SCHEMA or table.num_rows != record.quarantined:
        raise IntegrityError(f"{url} does not list the {record.quarantined} samples set aside")
    names = ("place", "sample_id", "reason")
    return [
        BadSample(*row) for row in zip(*(table[name].to_pylist() for name in names), strict=True)
    ]


def frequent_reasons(
    folder: Folder, records: Iterable[ShardRecord], most: int = 5
) -> list[tuple[str, int]]:
    """The most frequent reasons for which samples were set aside, and how often each was given.

    Raises:
        IntegrityError: a list is gone or damaged.
    """
    counts = Counter(
        sample.reason for record in records for sample in read_quarantine(folder, record)
    )
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]


def _line(text: str) -> str:
    return " ".join(text.split())


def require_few_bad(bad: Sequence[BadSample], quarantined: int, samples: int, limit: float) -> None:
    """Refuse to set aside more than a share of a label set's samples.

    Args:
        bad: some of them, the first of which is named.
        quarantined: how many were set aside so far.
        samples: how many samples the whole set has.
        limit: the largest share, `labels.max_bad`.

    Raises:
        DataError: there are more.
    """
    if quarantined <= limit * samples:
        return
    such = f", such as {bad[0].sample_id!r}: {_line(bad[0].reason)}" if bad else ""
    raise DataError(
        f"labels.max_bad: {quarantined} of {samples} samples are bad, more than the share {limit:g}"
        f"{such}; mend them, or allow more"
    )
