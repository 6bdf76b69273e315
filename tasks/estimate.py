"""How big a label set will be: measured on a few labelled samples before the work begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.corpus import Corpus, positions_of
from storage.encoding import encode
from storage.options import Selection
from storage.rows import Rows, num_rows, take
from storage.spec import LabelSetSpec
from storage.writer import ShardPlan, parquet_bytes, row_groups
from tasks.label import label_rows
from tasks.label_checks import set_aside
from tasks.teachers import Teacher

_MOST_POSITIONS = 512


def estimate_by_probe(
    plans: Sequence[ShardPlan],
    spec: LabelSetSpec,
    corpus: Corpus,
    teacher: Teacher,
    batch_size: int,
    *,
    quarantine: bool = False,
) -> int:
    """About how many bytes some shards will take: a few samples are labelled and encoded.

    Costs some hundred positions of the teacher for each way of keeping, and keeps nothing.
    """
    total = 0.0
    measured: dict[Selection, tuple[float, float]] = {}
    for split in dict.fromkeys(plan.split for plan in plans):
        of_split = [plan for plan in plans if plan.split == split]
        selection = spec.selections[split]
        if selection not in measured:
            measured[selection] = _measure(
                of_split[0], spec, corpus, teacher, batch_size, quarantine=quarantine
            )
        per_position, per_shard = measured[selection]
        positions = sum(plan.positions for plan in of_split)
        total += per_position * positions + per_shard * len(of_split)
    return int(total)


def _measure(
    plan: ShardPlan,
    spec: LabelSetSpec,
    corpus: Corpus,
    teacher: Teacher,
    batch_size: int,
    *,
    quarantine: bool,
) -> tuple[float, float]:
    """Bytes of a position, and of a shard whatever it holds."""
    read = corpus.read(plan.split, plan.start, plan.start + min(plan.rows, batch_size))
    good, _, _ = set_aside(read, plan.start, quarantine=quarantine)
    if num_rows(good) == 0:
        return 0.0, 0.0
    rows = take(good, np.arange(_probe_rows(good)))
    labelled, _ = label_rows(rows, spec, plan.split, teacher, batch_size, quarantine=quarantine)
    if num_rows(labelled) == 0:
        return 0.0, 0.0
    positions_B = positions_of(labelled)
    groups = row_groups(positions_B, spec.positions_per_row_group)
    content = parquet_bytes(encode(labelled, spec, plan.split), groups, spec, plan.split)
    metadata = pq.read_metadata(pa.BufferReader(content))
    data = sum(
        metadata.row_group(group).column(column).total_compressed_size
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    return data / int(positions_B.sum()), len(content) - data


def _probe_rows(rows: Rows) -> int:
    """As many of some samples as hold few positions; at least one."""
    positions_B = positions_of(rows)
    within = int(np.searchsorted(np.cumsum(positions_B), _MOST_POSITIONS, side="right"))
    return max(1, min(within, len(positions_B)))
