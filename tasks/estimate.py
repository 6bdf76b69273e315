"""How big a label set will be: measured on a few labelled samples before the work begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.corpus import Corpus, positions_of
from storage.encoding import encode
from storage.errors import RecipeError
from storage.features import Pool
from storage.options import Selection
from storage.rows import Rows, num_rows, take, values_of
from storage.spec import LabelSetSpec
from storage.writer import ShardPlan, groups_of, parquet_bytes
from tasks.label import label_rows
from tasks.label_checks import set_aside
from tasks.teachers import Teacher

_MOST_POSITIONS = 512
MOST_FEATURE_BYTES: Final = 1 << 30
"""Of the features of one shard, in memory: two or three shards are held at once."""


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
    measured: dict[tuple[Selection, bool], Sizes] = {}
    for split in dict.fromkeys(plan.split for plan in plans):
        of_split = [plan for plan in plans if plan.split == split]
        kind = spec.selections[split], bool(spec.features_of(split))
        if kind not in measured:
            measured[kind] = _measure(
                of_split[0], spec, corpus, teacher, batch_size, quarantine=quarantine
            )
        require_memory(of_split, measured[kind])
        total += sum(measured[kind].of(plan) for plan in of_split)
    return int(total)


@dataclass(frozen=True)
class Sizes:
    """What a few samples take, in bytes.

    Attributes:
        per_position: but for features that are pooled.
        per_row: of features that are pooled.
        per_shard: whatever it holds.
        features_per_position: of all features, in memory.
    """

    per_position: float = 0.0
    per_row: float = 0.0
    per_shard: float = 0.0
    features_per_position: float = 0.0

    def of(self, plan: ShardPlan) -> float:
        """About the size of a shard's file."""
        return self.per_position * plan.positions + self.per_row * plan.rows + self.per_shard


def require_memory(plans: Sequence[ShardPlan], sizes: Sizes) -> None:
    """Refuse shards whose features do not fit into memory: a shard is written as one.

    Raises:
        RecipeError: with a size that would do.
    """
    most = max(plan.positions for plan in plans)
    if sizes.features_per_position * most <= MOST_FEATURE_BYTES:
        return
    raise RecipeError(
        f"labels.positions_per_shard: features of {sizes.features_per_position:,.0f} bytes a "
        f"position make {sizes.features_per_position * most / 1e9:,.1f} GB a shard, which is held "
        f"in memory; lower it to {int(MOST_FEATURE_BYTES / sizes.features_per_position):,}, or "
        "choose pool or size"
    )


def _measure(
    plan: ShardPlan,
    spec: LabelSetSpec,
    corpus: Corpus,
    teacher: Teacher,
    batch_size: int,
    *,
    quarantine: bool,
) -> Sizes:
    """Bytes of a few samples from the beginning of a shard."""
    read = corpus.read(plan.split, plan.start, plan.start + min(plan.rows, batch_size))
    good, _, _ = set_aside(read, plan.start, quarantine=quarantine)
    if num_rows(good) == 0:
        return Sizes()
    rows = take(good, np.arange(_probe_rows(good)))
    labelled, _ = label_rows(rows, spec, plan.split, teacher, batch_size, quarantine=quarantine)
    if num_rows(labelled) == 0:
        return Sizes()
    positions_B = positions_of(labelled)
    groups = groups_of(labelled, spec, plan.split)
    content = parquet_bytes(encode(labelled, spec, plan.split), groups, spec, plan.split)
    metadata = pq.read_metadata(pa.BufferReader(content))
    columns = [
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]
    features = spec.features_of(plan.split)
    pooled = tuple(name for name, feature in features.items() if feature.pool is not Pool.NONE)
    data = sum(column.total_compressed_size for column in columns)
    of_rows = sum(
        column.total_compressed_size
        for column in columns
        if column.path_in_schema.removesuffix(".list.element") in pooled
    )
    positions = int(positions_B.sum())
    held = sum(values_of(labelled[name]).nbytes for name in features)
    return Sizes(
        per_position=(data - of_rows) / positions,
        per_row=of_rows / num_rows(labelled),
        per_shard=len(content) - data,
        features_per_position=held / positions,
    )


def _probe_rows(rows: Rows) -> int:
    """As many of some samples as hold few positions; at least one."""
    positions_B = positions_of(rows)
    within = int(np.searchsorted(np.cumsum(positions_B), _MOST_POSITIONS, side="right"))
    return max(1, min(within, len(positions_B)))
