"""A teacher at work on one label set: how big the set will be, and its shards.

A request says all that a process needs to make shards, and can be sent to one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from storage.cards import Card
from storage.corpus import Corpus
from storage.files import Folder
from storage.records import ShardRecord
from storage.spec import LabelSetSpec
from storage.writer import ShardPlan
from tasks.batch_size import find_batch_size
from tasks.effort import Effort
from tasks.estimate import estimate_by_probe
from tasks.label import LabelJob, label_shards
from tasks.teach import load_teacher
from tasks.teacher_options import TeacherOptions


@dataclass(frozen=True)
class LabelRequest:
    """What is to be labelled, by which teacher, and where.

    Attributes:
        store: the URL of the store.
        card: the teacher's.
        teacher: its options.
        recipe_folder: what their paths are relative to.
        label_set: the URL of the label set.
        spec: the form of its rows.
        corpus: the samples.
        quarantine: set bad samples aside instead of failing.
        device: where the teacher runs.
        threads: of its process on the CPU; None leaves them as they are.
    """

    store: str
    card: Card
    teacher: TeacherOptions
    recipe_folder: Path
    label_set: str
    spec: LabelSetSpec
    corpus: Corpus
    quarantine: bool
    device: torch.device
    threads: int | None = None

    def open(self) -> Labeller:
        """Load the teacher, here."""
        return Labeller(self)


@dataclass(frozen=True)
class Probe:
    """What a look before the work found: samples of a batch, and bytes that will be written."""

    batch_size: int
    size_bytes: int


class Labeller:
    """Makes shards in this process; the teacher is loaded once."""

    def __init__(self, request: LabelRequest) -> None:
        """Load the teacher.

        Raises:
            IntegrityError: its weights are no longer those of the card.
            ModelError: it does not load.
        """
        if request.threads is not None:
            torch.set_num_threads(request.threads)
        self._request = request
        started = time.monotonic()
        self._teacher = load_teacher(
            Folder.open(request.store),
            request.card,
            request.teacher,
            request.recipe_folder,
            request.spec.inputs,
            request.device,
        )
        self._load_seconds = time.monotonic() - started

    def probe(self, plans: Sequence[ShardPlan], batch_size: int | None) -> Probe:
        """Label a batch of each split and throw it away; find the batch size where it is None."""
        request = self._request
        if batch_size is None:
            batch_size = find_batch_size(self._teacher, request.spec, request.corpus)
        size_bytes = estimate_by_probe(
            plans,
            request.spec,
            request.corpus,
            self._teacher,
            batch_size,
            quarantine=request.quarantine,
        )
        return Probe(batch_size, size_bytes)

    def label(
        self,
        plans: Iterable[ShardPlan | None],
        batch_size: int,
        on_shard: Callable[[ShardRecord], None],
        effort: Effort,
        on_batch: Callable[[int], None],
        *,
        at_once: bool = False,
    ) -> tuple[ShardRecord, ...]:
        """Make and commit some shards: see `tasks.label.label_shards`."""
        request = self._request
        effort.load_seconds = self._load_seconds
        job = LabelJob(
            folder=Folder.open(request.label_set),
            spec=request.spec,
            corpus=request.corpus,
            batch_size=batch_size,
            quarantine=request.quarantine,
            pinned=request.device.type == "cuda",
        )
        return label_shards(job, plans, self._teacher, on_shard, effort, on_batch, at_once=at_once)
