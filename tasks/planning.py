"""What a label set needs, what of it is there, and how big the rest will be. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storage import layout
from storage.codec import index_dtype, logit_dtype
from storage.corpus import CorpusIndex
from storage.errors import SoftlabelError
from storage.files import Folder
from storage.options import TRAIN
from storage.records import ShardRecord, parse, read_record
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
    """

    wanted: tuple[ShardPlan, ...]
    done: dict[str, ShardRecord]

    @property
    def missing(self) -> tuple[ShardPlan, ...]:
        """The shards that have to be made."""
        return tuple(plan for plan in self.wanted if plan.record_file not in self.done)

    @property
    def records(self) -> tuple[ShardRecord, ...]:
        """The records that are there, in the order of the manifest."""
        found = (self.done.get(plan.record_file) for plan in self.wanted)
        return tuple(record for record in found if record is not None)


def plan_labels(folder: Folder, fingerprint: str, index: CorpusIndex) -> LabelPlan:
    """List records and files, and compare them with what has to be there.

    A shard is there when its record is whole and its file has the size that the record says.
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
    records = (folder / layout.RECORDS).sizes()
    files = (folder / layout.SHARDS).sizes()
    done = {}
    for plan in wanted:
        record = _valid_record(folder, plan, files) if plan.record_file in records else None
        if record is not None:
            done[plan.record_file] = record
    return LabelPlan(wanted, done)


def estimate_bytes(plans: Sequence[ShardPlan], spec: LabelSetSpec) -> int:
    """About how many bytes some shards will take, before compression."""
    rows = sum(plan.rows for plan in plans)
    total = 0
    for plan in plans:
        entry = index_dtype(spec.num_classes).itemsize + logit_dtype(spec.codec).itemsize
        numbers = len(spec.temperatures) + (2 if spec.has_label else 0)
        per_position = spec.entries[plan.split] * entry + numbers * _FLOAT_BYTES
        total += plan.positions * per_position
    for given in spec.inputs:
        size = np.dtype(given.dtype).itemsize
        if given.shape is None:
            total += size * sum(plan.positions for plan in plans)
        else:
            total += size * rows * int(np.prod(given.shape))
    return total


def _valid_record(folder: Folder, plan: ShardPlan, files: dict[str, int]) -> ShardRecord | None:
    try:
        content = read_record(folder, plan.record_name)
        record = parse(ShardRecord, content, folder.url_of(plan.record_name))
    except SoftlabelError:
        return None
    same = record.fingerprint == plan.fingerprint and record.rows == plan.rows
    return record if same and files.get(record.file) == record.size_bytes else None
