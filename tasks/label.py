"""Labelling: samples through the teacher, and what is kept of its logits into shards.

Reading and collating, the teacher with the reduction of its logits, and encoding with writing are
three steps that overlap, with a bounded number of batches and shards between them. Batches are
built inside a shard only, so a shard's bytes depend neither on who makes it nor on what was made
before. Each shard commits by itself.

Costs the memory of the teacher, of one batch of its logits, and of a few shards of kept labels.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storage import layout, schema
from storage.corpus import Corpus
from storage.errors import DataError, ModelError, NotFiniteError, SoftlabelError
from storage.files import Folder
from storage.quarantine import BadSample
from storage.records import Manifest, ShardRecord, write_record
from storage.rows import Array, Column, Rows, lengths_of, num_rows, take, values_of
from storage.spec import LabelSetSpec
from storage.writer import ShardPlan, commit_shard, encode_shard
from tasks.background import Ahead, Behind
from tasks.batches import PlannedBatch, plan_batches
from tasks.effort import Effort, Step
from tasks.forward import Forward, Pending
from tasks.nn.batch import Batch
from tasks.nn.fidelity import merge_fidelity
from tasks.shard_labels import NOT_FINITE, BatchLabels, ShardLabels, assemble
from tasks.stream import collate
from tasks.teachers import Teacher

_BATCHES_AHEAD = 4
_SHARDS_BEHIND = 1
_NAMED_IDS = 3
_NAMED_CLASSES = 5


@dataclass(frozen=True)
class LabelJob:
    """What labelling needs, whichever shards are made.

    Attributes:
        folder: the label set.
        spec: the form of its rows.
        corpus: the samples.
        batch_size: samples that the teacher sees at once.
        quarantine: set bad samples aside instead of failing.
        pinned: whether batches are put into pinned memory, for a teacher on CUDA.
    """

    folder: Folder
    spec: LabelSetSpec
    corpus: Corpus
    batch_size: int
    quarantine: bool = False
    pinned: bool = False


@dataclass
class _Shard:
    """A shard on its way: its good samples, and what came out of its batches so far."""

    plan: ShardPlan
    rows: Rows
    places: Array
    bad: list[BadSample]
    batches: int
    halved: int = 0
    parts: list[BatchLabels] = field(default_factory=list)


@dataclass(frozen=True)
class _Work:
    """A batch of a shard; none for a shard without good samples."""

    shard: _Shard
    planned: PlannedBatch | None = None
    batch: Batch | None = None


def label_shards(
    job: LabelJob,
    plans: Iterable[ShardPlan | None],
    teacher: Teacher,
    on_shard: Callable[[ShardRecord], None],
    effort: Effort | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
    *,
    at_once: bool = False,
) -> tuple[ShardRecord, ...]:
    """Make and commit some shards, in their order.

    Args:
        job: what is made.
        plans: which shards; asked for from another thread, a few batches before they are needed.
            None says that the next one may take a while: what was begun is committed meanwhile.
        teacher: gives logits.
        on_shard: told of each shard that is committed, between two batches of the teacher.
        effort: what is spent is added to it.
        on_batch: told how many positions went through the teacher, after each batch.
        at_once: call `on_shard` from the thread that writes, even while the teacher hangs.

    Raises:
        NotFiniteError: a logit is NaN or infinite; the samples are named.
        ModelError: the teacher has another number of classes than the specification, or fails.
        DataError: a hard label is not among the teacher's classes, or a sample is bad.
    """
    _require_teacher(teacher, job.spec)
    effort = effort or Effort()
    forward = Forward(teacher, job.spec, effort)
    records: list[ShardRecord] = []

    def write(shard: _Shard) -> ShardRecord:
        record = _write(job, shard, effort)
        if at_once:
            on_shard(record)
        return record

    def tell() -> None:
        for record in writer.results():
            records.append(record)
            if not at_once:
                on_shard(record)

    writer = Behind(write, _SHARDS_BEHIND, "label-writer")
    ahead = Ahead(_read(job, plans, effort), _BATCHES_AHEAD, "label-reader")
    try:
        with ahead, writer:
            for shard in _through_teacher(job, ahead, forward, effort, on_batch):
                with effort.timed(Step.WAIT):
                    writer.flush() if shard is None else writer.put(shard)
                tell()
            with effort.timed(Step.WAIT):
                writer.finish()
    except BaseException:
        with contextlib.suppress(SoftlabelError):  # what went wrong first is what is said
            tell()
        raise
    tell()
    return tuple(records)


def label_rows(
    rows: Rows,
    spec: LabelSetSpec,
    split: str,
    teacher: Teacher,
    batch_size: int,
    *,
    quarantine: bool = False,
) -> tuple[dict[str, Column], dict[str, Any]]:
    """Some samples with their soft labels, in one go, and the fidelity of these.

    Args:
        rows: samples that could be made.
        spec: the form of the label set.
        split: what they belong to.
        teacher: gives logits.
        batch_size: samples that the teacher sees at once.
        quarantine: leave samples out whose logits are not finite.

    Raises:
        NotFiniteError: a logit is NaN or infinite; the samples are named.
    """
    forward = Forward(teacher, spec, Effort())
    augment = spec.augment_of(split)
    parts = []
    for planned in plan_batches(num_rows(rows), lengths_of(rows), batch_size):
        some = take(rows, planned.places)
        batch = collate(some, (), padded_length=planned.length, augment=augment)
        part = _labels(planned, batch, forward.run(batch, split))
        _require_padding(part, spec.num_classes)
        if not quarantine:
            _require_finite(part, rows)
        parts.append(part)
    labels = assemble(rows, parts, spec, split)
    return labels.rows, labels.fidelity


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


def _read(
    job: LabelJob, plans: Iterable[ShardPlan | None], effort: Effort
) -> Iterator[_Work | None]:
    """The batches of the shards, in order; None where the next shard is not known yet."""
    for plan in plans:
        if plan is None:
            yield None
            continue
        with effort.timed(Step.READ):
            rows = job.corpus.read(plan.split, plan.start, plan.start + plan.rows)
            _require_known_classes(rows, job.spec)
            good, places, bad = set_aside(rows, plan.start, quarantine=job.quarantine)
            planned = plan_batches(len(places), lengths_of(good), job.batch_size)
            shard = _Shard(plan, good, places, bad, len(planned))
        if not planned:
            yield _Work(shard)
        augment = job.spec.augment_of(plan.split)
        for entry in planned:
            with effort.timed(Step.READ):
                some = take(good, entry.places)
                batch = collate(some, (), padded_length=entry.length, augment=augment)
                batch = batch.pinned() if job.pinned else batch
            yield _Work(shard, entry, batch)


def _through_teacher(
    job: LabelJob,
    works: Iterable[_Work | None],
    forward: Forward,
    effort: Effort,
    on_batch: Callable[[int], None],
) -> Iterator[_Shard | None]:
    """The shards whose batches have all been through the teacher; None to commit what there is.

    What is on its way from a device is waited for when the next batch is under way.
    """
    before: tuple[_Work, Pending | None] | None = None
    for work in _timed(works, effort):
        if work is None:
            if before is not None:
                yield from _collect(job, *before, effort, on_batch)
            before = None
            yield None
            continue
        halved = forward.halved
        pending = None if work.batch is None else forward.run(work.batch, work.shard.plan.split)
        work.shard.halved += forward.halved - halved
        if before is not None:
            yield from _collect(job, *before, effort, on_batch)
        before = (work, pending)
        if pending is None or pending.arrived is None:
            yield from _collect(job, *before, effort, on_batch)
            before = None
    if before is not None:
        yield from _collect(job, *before, effort, on_batch)


def _collect(
    job: LabelJob,
    work: _Work,
    pending: Pending | None,
    effort: Effort,
    on_batch: Callable[[int], None],
) -> Iterator[_Shard]:
    """Add a batch's labels to its shard; the shard, where that was the last of it."""
    shard = work.shard
    if work.batch is not None and work.planned is not None and pending is not None:
        with effort.timed(Step.COPY):
            part = _labels(work.planned, work.batch, pending)
        _require_padding(part, job.spec.num_classes)
        if not job.quarantine:
            _require_finite(part, shard.rows)
        shard.parts.append(part)
        real, computed = _tokens(work.planned, shard.rows)
        effort.count(len(part.mask_R), real, computed)
        on_batch(len(part.mask_R))
    if len(shard.parts) == shard.batches:
        yield shard


def _write(job: LabelJob, shard: _Shard, effort: Effort) -> ShardRecord:
    """Commit a shard, its bad samples beside it."""
    plan = shard.plan
    with effort.timed(Step.ENCODE):
        rows: dict[str, Column] = {}
        fidelity: dict[str, Any] = {}
        bad = list(shard.bad)
        if shard.parts:
            labels = assemble(shard.rows, shard.parts, job.spec, plan.split)
            rows, fidelity = labels.rows, labels.fidelity
            bad += _not_finite(shard, labels)
        if not rows or not num_rows(rows):
            rows, fidelity = {}, {}
        encoded = encode_shard(plan, job.spec, rows, fidelity, bad, shard.halved)
    with effort.timed(Step.WRITE):
        record = commit_shard(job.folder, encoded)
    effort.committed()
    return record


def _not_finite(shard: _Shard, labels: ShardLabels) -> list[BadSample]:
    ids = np.asarray(shard.rows[schema.SAMPLE_ID])
    return [
        BadSample(int(shard.places[place]), str(ids[place]), NOT_FINITE) for place in labels.bad
    ]


def _timed(works: Iterable[_Work | None], effort: Effort) -> Iterator[_Work | None]:
    """The works, the time until each of them is there being counted."""
    began = time.perf_counter()
    for work in works:
        effort.spend(Step.WAIT, time.perf_counter() - began)
        yield work
        began = time.perf_counter()


def _labels(planned: PlannedBatch, batch: Batch, pending: Pending) -> BatchLabels:
    lengths_B = batch.real_P.reshape(batch.num_samples, -1).sum(dim=1).numpy()
    return BatchLabels(planned.places, pending.result(), batch.mask_P[batch.real_P], lengths_B)


def _tokens(planned: PlannedBatch, rows: Rows) -> tuple[int, int]:
    """How many tokens of a batch are there, and how many the teacher computes."""
    lengths_B = lengths_of(rows)
    if lengths_B is None or planned.length is None:
        return len(planned.places), len(planned.places)
    return int(lengths_B[planned.places].sum()), len(planned.places) * planned.length


def set_aside(rows: Rows, start: int, *, quarantine: bool) -> tuple[Rows, Array, list[BadSample]]:
    """The samples that could be made, their places in the split, and those that could not.

    Args:
        rows: samples as a corpus gives them.
        start: the place of the first one in its split.
        quarantine: whether samples that could not be made may be left out.

    Raises:
        DataError: there are some, and they are not to be set aside.
    """
    places = np.arange(start, start + num_rows(rows))
    if schema.BAD not in rows:
        return rows, places, []
    good = {name: column for name, column in rows.items() if name != schema.BAD}
    reason_B = np.asarray(rows[schema.BAD])
    bad_B = reason_B != ""
    if not bad_B.any():
        return good, places, []
    ids = np.asarray(rows[schema.SAMPLE_ID])
    bad = [BadSample(int(places[i]), str(ids[i]), str(reason_B[i])) for i in np.flatnonzero(bad_B)]
    if not quarantine:
        said = "; ".join(f"{sample.sample_id}: {sample.reason}" for sample in bad[:_NAMED_IDS])
        more = "; ..." if len(bad) > _NAMED_IDS else ""
        raise DataError(
            f"data: {len(bad)} samples cannot be used: {said}{more}; mend them, leave them out, or "
            "say labels.on_bad_sample: quarantine"
        )
    kept = np.flatnonzero(~bad_B)
    return take(good, kept), places[kept], bad


def _require_teacher(teacher: Teacher, spec: LabelSetSpec) -> None:
    if teacher.num_classes != spec.teacher_classes:
        raise ModelError(
            f"teacher: it gives {teacher.num_classes} classes, {spec.teacher_classes} were "
            "expected from data.classes and its card"
        )


def _require_known_classes(rows: Rows, spec: LabelSetSpec) -> None:
    column = rows.get(schema.LABEL)
    if column is None:
        return
    highest = int(values_of(column).max(initial=schema.NO_LABEL))
    if highest >= spec.num_classes:
        raise DataError(
            f"data.label: there is a hard label {highest}, the teacher knows the classes 0 to "
            f"{spec.num_classes - 1}"
        )


def _require_finite(part: BatchLabels, rows: Rows) -> None:
    """Refuse logits that are NaN or +inf, or -inf throughout, naming the first samples."""
    bad = part.bad_places()
    if not len(bad):
        return
    ids = np.asarray(rows[schema.SAMPLE_ID])[bad]
    named = ", ".join(map(str, ids[:_NAMED_IDS])) + (", ..." if len(ids) > _NAMED_IDS else "")
    raise NotFiniteError(
        f"{NOT_FINITE} in {len(ids)} samples: {named}; look at these samples, or at the teacher's "
        "precision, or say labels.on_bad_sample: quarantine"
    )


def _require_padding(part: BatchLabels, num_classes: int) -> None:
    """Outputs beyond the real classes are padding only if the teacher never prefers them.

    Raises:
        ModelError: naming the ids.
    """
    counts_R = part.mask_R & ~part.reduced.bad_R
    best = np.unique(part.reduced.best_R[counts_R].numpy())
    ids = [int(name) for name in best[best >= num_classes]]
    if ids:
        more = ", ..." if len(ids) > _NAMED_CLASSES else ""
        named = ", ".join(map(str, ids[:_NAMED_CLASSES])) + more
        raise ModelError(
            f"data.padded: the teacher's best class is one of the ids {named} at some positions, "
            f"which data.classes: {num_classes} calls padding; say how many real ids there are"
        )
