"""How big a label set will be: measured on a few labelled samples before the work begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.corpus import Corpus, positions_of
from storage.encoding import encode
from storage.errors import SpaceError
from storage.files import Folder
from storage.rows import Rows, take
from storage.spec import LabelSetSpec
from storage.writer import ShardPlan, parquet_bytes, row_groups
from tasks.label import label_rows
from tasks.teachers import Teacher

_MOST_POSITIONS = 4096


def estimate_by_probe(
    plans: Sequence[ShardPlan],
    spec: LabelSetSpec,
    corpus: Corpus,
    teacher: Teacher,
    batch_size: int,
) -> int:
    """About how many bytes some shards will take: one batch of each split is labelled and encoded.

    Costs a batch of the teacher for each split, and keeps nothing.
    """
    total = 0.0
    for split in dict.fromkeys(plan.split for plan in plans):
        of_split = [plan for plan in plans if plan.split == split]
        per_position, per_shard = _measure(of_split[0], spec, corpus, teacher, batch_size)
        positions = sum(plan.positions for plan in of_split)
        total += per_position * positions + per_shard * len(of_split)
    return int(total)


def require_space(folder: Folder, to_write: int, there: int, max_bytes: int | None) -> None:
    """Refuse to begin what does not fit.

    Args:
        folder: the label set.
        to_write: about how many bytes will be written.
        there: how many are there already.
        max_bytes: `labels.max_bytes`.

    Raises:
        SpaceError: with both numbers.
    """
    if max_bytes is not None and there + to_write > max_bytes:
        raise SpaceError(
            f"labels.max_bytes: the label set would take about {there + to_write:,} bytes, "
            f"{max_bytes:,} are allowed; raise it, or lower labels.k, or choose a smaller "
            "labels.codec or labels.layout"
        )
    free = folder.free_bytes()
    if free is not None and to_write > free:
        raise SpaceError(
            f"{folder.url}: about {to_write:,} bytes would be written, {free:,} are free; make "
            "room, choose another store, or lower labels.k"
        )


def _measure(
    plan: ShardPlan, spec: LabelSetSpec, corpus: Corpus, teacher: Teacher, batch_size: int
) -> tuple[float, float]:
    """Bytes of a position, and of a shard whatever it holds."""
    count = _probe_rows(corpus.splits[plan.split], plan, batch_size)
    rows = take(corpus.splits[plan.split], np.arange(plan.start, plan.start + count))
    labelled, _ = label_rows(rows, spec, plan.split, teacher, batch_size)
    positions_B = positions_of(rows)
    groups = row_groups(positions_B, spec.positions_per_row_group)
    content = parquet_bytes(encode(labelled, spec, plan.split), groups, spec, plan.split)
    metadata = pq.read_metadata(pa.BufferReader(content))
    data = sum(
        metadata.row_group(group).column(column).total_compressed_size
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    return data / int(positions_B.sum()), len(content) - data


def _probe_rows(rows: Rows, plan: ShardPlan, batch_size: int) -> int:
    """As many samples as a batch has, or fewer where they hold many positions; at least one."""
    positions_B = positions_of(rows)[plan.start : plan.start + min(plan.rows, batch_size)]
    within = int(np.searchsorted(np.cumsum(positions_B), _MOST_POSITIONS, side="right"))
    return max(1, min(within, len(positions_B)))
