"""Labelling: which shards have to be there, and making those that are not.

Batches are built inside a shard only, so a shard's bytes depend neither on who makes it nor on
what was made before. Each shard commits by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from storage import layout, schema
from storage.codec import round_trip
from storage.corpus import Corpus
from storage.errors import DataError, ModelError
from storage.files import Folder
from storage.records import Manifest, ShardRecord, write_record
from storage.rows import Array, Column, Ragged, Rows, num_rows, take
from storage.spec import LabelSetSpec
from storage.writer import ShardPlan, write_shard
from tasks.nn.batch import Batch
from tasks.nn.softlabels import (
    Fidelity,
    SoftLabels,
    capture,
    fidelity_record,
    measure,
    merge_fidelity,
    require_finite,
)
from tasks.stream import collate
from tasks.teachers import Teacher


@dataclass(frozen=True)
class LabelWork:
    """What making a group of shards cost."""

    records: tuple[ShardRecord, ...]
    teacher_batches: int
    positions: int


def label_shards(
    folder: Folder,
    plans: Sequence[ShardPlan],
    spec: LabelSetSpec,
    corpus: Corpus,
    teacher: Teacher,
    batch_size: int,
    on_shard: Callable[[ShardRecord], None],
) -> LabelWork:
    """Make and commit some shards, one after the other.

    Args:
        folder: the label set.
        plans: what to make.
        spec: its form.
        corpus: the samples.
        teacher: gives their logits.
        batch_size: samples that the teacher sees at once.
        on_shard: told of each shard that is committed.

    Raises:
        NotFiniteError: a logit is NaN or infinite; the samples are named.
        ModelError: the teacher has another number of classes than the specification.
        DataError: a hard label is not among the teacher's classes.
    """
    if teacher.num_classes != spec.num_classes:
        raise ModelError(
            f"teacher: it gives {teacher.num_classes} classes, {spec.num_classes} were expected "
            "from data.classes and its card"
        )
    records = []
    batches = 0
    for plan in plans:
        rows = take(corpus.splits[plan.split], np.arange(plan.start, plan.start + plan.rows))
        _require_known_classes(rows, spec)
        labelled, fidelity = label_rows(rows, spec, plan.split, teacher, batch_size)
        records.append(write_shard(folder, plan, spec, labelled, fidelity))
        batches += -(-plan.rows // batch_size)
        on_shard(records[-1])
    return LabelWork(tuple(records), batches, sum(record.positions for record in records))


def label_rows(
    rows: Rows, spec: LabelSetSpec, split: str, teacher: Teacher, batch_size: int
) -> tuple[dict[str, Column], dict[str, Any]]:
    """The rows of one shard with their soft labels, and the fidelity of these."""
    parts: list[SoftLabels] = []
    measured: list[tuple[Fidelity, torch.Tensor]] = []
    for start in range(0, num_rows(rows), batch_size):
        batch = collate(take(rows, np.arange(start, min(start + batch_size, num_rows(rows)))), ())
        kept, fidelity = _label_batch(batch, spec, split, teacher)
        parts.append(kept)
        measured.append((fidelity, batch.mask_P[batch.real_P]))
    columns = {name: _column([getattr(part, name) for part in parts], rows) for name in _FIELDS}
    if spec.has_label:
        columns[schema.LABEL_LOGIT] = _column([part.label_logit_P for part in parts], rows)
    for name in schema.STATISTICS if spec.statistics else ():
        columns[name] = _column([part.statistics[name] for part in parts], rows)
    labelled = {_FIELDS.get(name, name): column for name, column in columns.items()}
    return {**rows, **labelled}, fidelity_record(measured, spec.temperatures)


def finish_label_set(
    folder: Folder, fingerprint: str, spec: LabelSetSpec, records: Sequence[ShardRecord]
) -> Manifest:
    """Write the manifest of a label set whose shards are all there."""
    fidelity = {
        split: merge_fidelity([entry.fidelity for entry in records if entry.split == split])
        for split in spec.splits
    }
    manifest = Manifest.of(fingerprint, spec, tuple(records), fidelity)
    write_record(folder, f"{layout.MANIFESTS}/{manifest.digest}.json", manifest)
    write_record(folder, layout.MANIFEST, manifest)
    return manifest


_FIELDS = {"index_PK": schema.INDEX, "logit_PK": schema.LOGIT, "rest_PT": schema.REST}


def _require_known_classes(rows: Rows, spec: LabelSetSpec) -> None:
    column = rows.get(schema.LABEL)
    if column is None:
        return
    values = column.values_NW if isinstance(column, Ragged) else column
    highest = int(values.max(initial=schema.NO_LABEL))
    if highest >= spec.num_classes:
        raise DataError(
            f"data.label: there is a hard label {highest}, the teacher knows the classes 0 to "
            f"{spec.num_classes - 1}"
        )


def _label_batch(
    batch: Batch, spec: LabelSetSpec, split: str, teacher: Teacher
) -> tuple[SoftLabels, Fidelity]:
    """The soft labels of a batch's positions, those of its padding left out."""
    logit_PC = teacher.logits(batch.inputs)
    if len(logit_PC) != len(batch.mask_P):
        raise ModelError(
            f"teacher: expected logits for {len(batch.mask_P)} positions, got {len(logit_PC)}"
        )
    require_finite(logit_PC, batch.sample_ids, batch.real_P)
    real_P = batch.real_P.to(logit_PC.device)
    logit_PC = logit_PC[real_P] if not bool(real_P.all()) else logit_PC
    label_P = batch.label_P[batch.real_P].to(logit_PC.device) if spec.has_label else None
    kept = capture(
        logit_PC, label_P, spec.entries[split], spec.temperatures, statistics=spec.statistics
    )
    decoded = torch.from_numpy(round_trip(kept.logit_PK.cpu().numpy(), spec.codec))
    fidelity = measure(logit_PC, kept, decoded.to(logit_PC.device), spec.temperatures)
    return kept, fidelity


def _column(parts: Sequence[Any], rows: Rows) -> Column:
    values: Array = torch.cat(list(parts)).cpu().numpy()
    ragged = next((entry for entry in rows.values() if isinstance(entry, Ragged)), None)
    return values if ragged is None else Ragged(values, ragged.lengths_B)
