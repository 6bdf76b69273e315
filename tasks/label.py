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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storage import layout, schema
from storage.corpus import Corpus
from storage.errors import SoftlabelError
from storage.files import Folder
from storage.quarantine import BadSample
from storage.records import Manifest, ShardRecord, write_record
from storage.rows import Array, Column, Rows, lengths_of, num_rows, take
from storage.spec import LabelSetSpec
from storage.writer import ShardPlan, commit_shard, encode_shard
from tasks.background import Ahead, Behind
from tasks.batches import PlannedBatch, plan_batches
from tasks.collate import collate
from tasks.effort import Effort, Step
from tasks.forward import Forward, Pending
from tasks.label_checks import (
    require_finite,
    require_known_classes,
    require_padding,
    require_teacher,
    set_aside,
)
from tasks.nn.batch import Batch
from tasks.nn.fidelity import merge_fidelity
from tasks.shard_labels import BatchLabels, ShardLabels, assemble
from tasks.stored_features import feature_columns
from tasks.teachers import Teacher

_BATCHES_AHEAD = 4
_SHARDS_BEHIND = 1


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
    require_teacher(teacher, job.spec)
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
    parts = []
    for planned in plan_batches(num_rows(rows), lengths_of(rows), batch_size):
        batch = planned_batch(rows, planned, spec, split)
        parts.append(
            _labels(planned, batch, forward.run(batch, split), rows, spec, quarantine=quarantine)
        )
    labels = assemble(rows, parts, spec, split)
    return labels.rows, labels.fidelity


def planned_batch(rows: Rows, planned: PlannedBatch, spec: LabelSetSpec, split: str) -> Batch:
    """The samples of a planned batch as the teacher gets them."""
    some = take(rows, planned.places)
    return collate(some, (), padded_length=planned.length, augment=spec.augment_of(split))


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
            require_known_classes(rows, job.spec)
            good, places, bad = set_aside(rows, plan.start, quarantine=job.quarantine)
            planned = plan_batches(len(places), lengths_of(good), job.batch_size)
            shard = _Shard(plan, good, places, bad, len(planned))
        if not planned:
            yield _Work(shard)
        for entry in planned:
            with effort.timed(Step.READ):
                batch = planned_batch(good, entry, job.spec, plan.split)
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
    under_way: deque[tuple[_Work, Pending | None]] = deque()
    for work in _timed(works, effort):
        waited_for = 0
        if work is not None:
            halved = forward.halved
            pending = None if work.batch is None else forward.run(work.batch, work.shard.plan.split)
            work.shard.halved += forward.halved - halved
            under_way.append((work, pending))
            waited_for = 1 if pending is not None and pending.arrived is not None else 0
        while len(under_way) > waited_for:
            yield from _collect(job, *under_way.popleft(), effort, on_batch)
        if work is None:
            yield None
    while under_way:
        yield from _collect(job, *under_way.popleft(), effort, on_batch)


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
            part = _labels(
                work.planned, work.batch, pending, shard.rows, job.spec, quarantine=job.quarantine
            )
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
        BadSample(int(shard.places[place]), str(ids[place]), reason)
        for place, reason in labels.bad.items()
    ]


def _timed(works: Iterable[_Work | None], effort: Effort) -> Iterator[_Work | None]:
    """The works, the time until each of them is there being counted."""
    began = time.perf_counter()
    for work in works:
        effort.spend(Step.WAIT, time.perf_counter() - began)
        yield work
        began = time.perf_counter()


def _labels(
    planned: PlannedBatch,
    batch: Batch,
    pending: Pending,
    rows: Rows,
    spec: LabelSetSpec,
    *,
    quarantine: bool,
) -> BatchLabels:
    """What came out of a batch of `rows`, once it has arrived and was looked over."""
    passed, places = pending.result(), planned.places
    inputs_B = lengths_of(rows)
    features, odd_B = feature_columns(
        passed.features, None if inputs_B is None else inputs_B[places]
    )
    part = BatchLabels(
        places,
        passed.reduced,
        batch.mask_P[batch.real_P],
        batch.lengths_B.numpy(),
        features,
        places[odd_B] if features else places[:0],
    )
    require_padding(part, spec.num_classes)
    if not quarantine:
        require_finite(part, rows)
    return part


def _tokens(planned: PlannedBatch, rows: Rows) -> tuple[int, int]:
    """How many tokens of a batch are there, and how many the teacher computes."""
    lengths_B = lengths_of(rows)
    if lengths_B is None or planned.length is None:
        return len(planned.places), len(planned.places)
    return int(lengths_B[planned.places].sum()), len(planned.places) * planned.length
