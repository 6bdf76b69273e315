"""What a label set needs, what of it is there, and how big the rest will be. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from storage import layout
from storage.codec import index_dtype, logit_dtype
from storage.compaction import committed_records
from storage.corpus import CorpusIndex
from storage.features import HIDDEN, Pool
from storage.files import Folder
from storage.options import TRAIN
from storage.records import ShardRecord
from storage.spec import LabelSetSpec
from storage.writer import ShardPlan
from tasks import intents

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class LabelPlan:
    """What a label set needs, and what of it is there.

    Attributes:
        wanted: all shards, in the order of the manifest.
        done: the records of those that are there, by the name of the record.
        broken: the names of records that are there while their shard is not.
    """

    wanted: tuple[ShardPlan, ...]
    done: dict[str, ShardRecord]
    broken: frozenset[str] = frozenset()

    @cached_property
    def missing(self) -> tuple[ShardPlan, ...]:
        """The shards that have to be made."""
        return tuple(plan for plan in self.wanted if plan.record_file not in self.done)

    @cached_property
    def records(self) -> tuple[ShardRecord, ...]:
        """The records that are there, in the order of the manifest."""
        found = (self.done.get(plan.record_file) for plan in self.wanted)
        return tuple(record for record in found if record is not None)


def plan_labels(
    folder: Folder, fingerprint: str, index: CorpusIndex, *, compact: bool = False
) -> LabelPlan:
    """List records and files, and compare them with what has to be there.

    A shard is there when its record is whole and its file has the size that the record says.

    Args:
        folder: the label set.
        fingerprint: its own.
        index: the samples that it has to hold.
        compact: leave behind what makes the next look cheap; only where the store may be written.
    """
    wanted = tuple(
        ShardPlan(
            fingerprint=intents.shard(fingerprint, samples.digest),
            split=split,
            ordinal=ordinal,
            start=samples.start,
            rows=samples.rows,
            positions=samples.positions,
        )
        for split in sorted(index.shards, key=lambda name: (name != TRAIN, name))
        for ordinal, samples in enumerate(index.shards[split])
    )
    by_name = {plan.record_file: plan for plan in wanted}
    found = committed_records(folder, by_name.keys(), compact=compact)
    done = {
        name: found.there[name]
        for name, plan in by_name.items()
        if name in found.there and _is_of(found.there[name], plan)
    }
    return LabelPlan(wanted, done, found.broken | (found.there.keys() - done.keys()))


def made_since(
    folder: Folder, plan: LabelPlan, shards: Sequence[ShardPlan]
) -> frozenset[ShardPlan]:
    """Which of some shards that `plan` misses are there by now, made by somebody else.

    Costs one look for one shard, and one listing for more; a record that was broken is read again.
    """
    again = [shard for shard in shards if shard.record_file in plan.broken]
    new = [shard for shard in shards if shard.record_file not in plan.broken]
    if len(new) == 1:
        made = [shard for shard in new if folder.exists(shard.record_name)]
    else:
        listed = (folder / layout.RECORDS).sizes() if new else {}
        made = [shard for shard in new if shard.record_file in listed]
    if again:
        there = committed_records(folder, [shard.record_file for shard in again]).there
        made += [
            shard
            for shard in again
            if shard.record_file in there and _is_of(there[shard.record_file], shard)
        ]
    return frozenset(made)


def estimate_bytes(plans: Sequence[ShardPlan], spec: LabelSetSpec) -> int:
    """About how many bytes some shards will take, before compression."""
    rows = sum(plan.rows for plan in plans)
    total = 0
    for plan in plans:
        entry = index_dtype(spec.num_classes).itemsize + logit_dtype(spec.codec).itemsize
        numbers = len(spec.temperatures) + spec.has_std + (2 if spec.has_label else 0)
        per_position = spec.entries[plan.split] * entry + numbers * _FLOAT_BYTES
        total += plan.positions * per_position
    for given in spec.inputs:
        size = np.dtype(given.dtype).itemsize
        if given.shape is None:
            total += size * sum(plan.positions for plan in plans)
        else:
            total += size * rows * int(np.prod(given.shape))
    return total


def estimate_feature_bytes(
    plans: Sequence[ShardPlan], spec: LabelSetSpec, width: int | None
) -> int | None:
    """About how many bytes the features of some shards will take; None where only a run can tell.

    Args:
        plans: which shards.
        spec: the form of the set.
        width: numbers of the teacher's hidden states, where that is known.
    """
    total = 0
    for plan in plans:
        for feature in spec.features_of(plan.split).values():
            hidden = width if feature.feature.startswith(HIDDEN) else None
            numbers = feature.size or hidden
            whole = feature.pool is not Pool.NONE or spec.has_many_positions
            if numbers is None or feature.is_map or not whole:
                return None
            vectors = plan.positions if feature.pool is Pool.NONE else plan.rows
            total += vectors * numbers * feature.numbers.itemsize
    return total


def _is_of(record: ShardRecord, plan: ShardPlan) -> bool:
    all_rows = record.rows + record.quarantined
    return record.fingerprint == plan.fingerprint and all_rows == plan.rows
