"""Labelling: which shards have to be there, and making those that are not.

Batches are built inside a shard only, so a shard's bytes depend neither on who makes it nor on
what was made before. Each shard commits by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from storage import layout, schema
from storage.codec import round_trip
from storage.corpus import Corpus, positions_of
from storage.entries import level_scale
from storage.errors import DataError, ModelError
from storage.files import Folder
from storage.options import Keep
from storage.order import position_keys
from storage.records import Manifest, ShardRecord, write_record
from storage.rows import Array, Column, Ragged, Rows, num_rows, take, values_of
from storage.spec import LabelSetSpec
from storage.writer import ShardPlan, write_shard
from tasks.nn.batch import Batch
from tasks.nn.fidelity import (
    Fidelity,
    best_agrees,
    codec_kl,
    fidelity_record,
    measure,
    merge_fidelity,
)
from tasks.nn.softlabels import SoftLabels, capture, require_finite
from tasks.stream import collate
from tasks.teachers import Teacher

_NAMED_IDS = 5


@dataclass(frozen=True)
class LabelWork:
    """What making a group of shards cost."""

    records: tuple[ShardRecord, ...]
    teacher_batches: int
    positions: int


def label_shards(
    folder: Folder,
    plans: Iterable[ShardPlan],
    spec: LabelSetSpec,
    corpus: Corpus,
    teacher: Teacher,
    batch_size: int,
    on_shard: Callable[[ShardRecord], None],
) -> LabelWork:
    """Make and commit some shards, one after the other.

    Args:
        folder: the label set.
        plans: what to make; each is asked for when the one before is committed.
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
    if teacher.num_classes != spec.teacher_classes:
        raise ModelError(
            f"teacher: it gives {teacher.num_classes} classes, {spec.teacher_classes} were "
            "expected from data.classes and its card"
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
        some = take(rows, np.arange(start, min(start + batch_size, num_rows(rows))))
        batch = collate(some, ())
        kept, fidelity = _label_batch(batch, spec, split, teacher)
        parts.append(kept)
        measured.append((fidelity, batch.mask_P[batch.real_P]))
    columns = {name: _column([getattr(part, name) for part in parts], rows) for name in _FIELDS}
    selection = spec.selections[split]
    if selection.varies:
        columns[schema.KEPT] = _column([part.kept_P for part in parts], rows)
    if selection.keep is Keep.SAMPLE:
        columns[schema.COUNT] = _column([part.count_PK for part in parts], rows)
    if spec.has_label:
        columns[schema.LABEL_LOGIT] = _column([part.label_logit_P for part in parts], rows)
    for name in schema.STATISTICS if spec.statistics else ():
        columns[name] = _column([part.statistics[name] for part in parts], rows)
    labelled = {_FIELDS.get(name, name): column for name, column in columns.items()}
    return {**rows, **labelled}, _fidelity(parts, measured, spec)


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
    values = values_of(column)
    highest = int(values.max(initial=schema.NO_LABEL))
    if highest >= spec.num_classes:
        raise DataError(
            f"data.label: there is a hard label {highest}, the teacher knows the classes 0 to "
            f"{spec.num_classes - 1}"
        )


def _fidelity(
    parts: Sequence[SoftLabels],
    measured: Sequence[tuple[Fidelity, torch.Tensor]],
    spec: LabelSetSpec,
) -> dict[str, Any]:
    """The fidelity of a shard; the codec comes last, for its levels are those of a whole shard."""
    logit_PK = torch.cat([part.logit_PK for part in parts]).cpu()
    rest_PT = torch.cat([part.rest_PT for part in parts]).cpu()
    decoded = round_trip(logit_PK.numpy(), spec.codec, level_scale(spec.temperatures))
    decoded_PK = torch.from_numpy(decoded)
    mask_P = torch.cat([mask for _, mask in measured]).cpu()
    codec_PT = codec_kl(logit_PK, decoded_PK, rest_PT, spec.temperatures)[mask_P]
    agreement_P = best_agrees(logit_PK, decoded_PK)[mask_P]
    return fidelity_record(measured, codec_PT, agreement_P, spec.temperatures)


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
    _require_padding(logit_PC, batch.mask_P[batch.real_P], spec.num_classes)
    label_P = batch.label_P[batch.real_P].to(logit_PC.device) if spec.has_label else None
    selection = spec.selections[split]
    drawn = selection.keep is Keep.SAMPLE
    kept = capture(
        logit_PC,
        label_P,
        selection,
        spec.temperatures,
        keys_P=_keys(batch, selection.seed) if drawn else None,
        num_classes=spec.num_classes,
        statistics=spec.statistics,
    )
    drawn_at = selection.temperature if drawn else None
    return kept, measure(logit_PC, kept, spec.temperatures, drawn_at)


def _keys(batch: Batch, seed: int) -> NDArray[np.uint64]:
    """The key of each position that is there."""
    lengths_B = batch.real_P.reshape(batch.num_samples, -1).sum(dim=1).numpy()
    return position_keys(batch.sample_ids, lengths_B, seed)


def _require_padding(logit_PC: torch.Tensor, mask_P: torch.Tensor, num_classes: int) -> None:
    """Outputs beyond the real classes are padding only if the teacher never prefers them.

    Raises:
        ModelError: naming the ids.
    """
    if logit_PC.shape[1] == num_classes:
        return
    best_P = logit_PC.argmax(dim=1)[mask_P.to(logit_PC.device)]
    ids = torch.unique(best_P[best_P >= num_classes]).tolist()
    if ids:
        named = ", ".join(map(str, ids[:_NAMED_IDS])) + (", ..." if len(ids) > _NAMED_IDS else "")
        raise ModelError(
            f"data.padded: the teacher's best class is one of the ids {named} at some positions, "
            f"which data.classes: {num_classes} calls padding; say how many real ids there are"
        )


def _column(parts: Sequence[Any], rows: Rows) -> Column:
    values: Array = torch.cat(list(parts)).cpu().numpy()
    blocks = schema.MASK in rows
    return Ragged(values, positions_of(rows)) if blocks else values
