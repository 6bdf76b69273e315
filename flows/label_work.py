"""Making the shards that are missing: a group of them a task run, together with other processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flows import engine
from flows.project import Labels, Project
from storage import layout
from storage.cards import Card
from storage.compaction import RecordGroups
from storage.corpus import Corpus
from storage.leases import Leases
from storage.quarantine import read_quarantine, require_few_bad
from storage.records import ShardRecord, read_record, seal
from storage.sharing import share
from storage.writer import ShardPlan
from tasks.effort import Effort
from tasks.planning import made_since
from tasks.progress import Tracker, track
from tasks.space import require_space

if TYPE_CHECKING:
    from tasks.labeller import Labeller
    from tasks.workers import Workers

_MOST_TASK_RUNS = 100
_LEAST_SHARDS = 4


@dataclass
class Counts:
    """What a run of the stage has done so far."""

    shards_written: int = 0
    shards_reused: int = 0
    positions: int = 0
    bytes: int = 0
    batch_size: int | None = None
    effort: Effort = field(default_factory=Effort)
    started: float = field(default_factory=time.monotonic)

    def add(self, record: ShardRecord) -> None:
        """A shard was committed."""
        self.shards_written += 1
        self.positions += record.positions
        self.bytes += record.size_bytes


def write_spec(project: Project, labels: Labels, batch_size: int | None) -> int | None:
    """Say what the set is, before its first shard: enough to make any of its shards again.

    Returns:
        The batch size that stands there: somebody else may have been first.
    """
    content: dict[str, Any] = {
        "fingerprint": labels.intent.fingerprint,
        "intent": labels.intent.content,
        "form": labels.spec.model_dump(mode="json"),
        "recipe": project.loaded.raw,
        "recipe_folder": str(project.loaded.folder),
    }
    if batch_size is not None:
        content["batch_size"] = batch_size
    if not labels.folder.exists(layout.SPEC):
        labels.folder.create(layout.SPEC, seal(content))
    stored: int | None = read_record(labels.folder, layout.SPEC).get("batch_size", batch_size)
    return stored


def make_shards(
    project: Project,
    card: Card,
    labels: Labels,
    missing: Sequence[ShardPlan],
    counts: Counts,
    *,
    force: bool,
) -> None:
    """Make the missing shards, a group a task run; what is there shows as `Cached`.

    Other processes that make the same label set take other shards.
    """
    execution = project.recipe.execution
    if counts.shards_reused:
        reused = f"reuse-{counts.shards_reused}-shards"
        engine.run_task(reused, lambda: engine.cached({}, "these shards are there"), execution)
    if not missing:
        write_spec(project, labels, labels.batch_size)
        return
    with (
        contextlib.closing(project.open_corpus()) as corpus,
        _labeller(project, card, labels, corpus) as labeller,
    ):
        probe = labeller.probe(missing, labels.batch_size)
        batch_size = write_spec(project, labels, probe.batch_size) or probe.batch_size
        counts.batch_size = batch_size
        expected = probe.size_bytes
        there = 0 if force else sum(record.size_bytes for record in labels.plan.records)
        require_space(labels.folder, expected, there, project.recipe.labels.max_bytes)
        engine.log(f"about {expected:,} bytes will be written in {len(missing)} shards")
        positions = sum(plan.positions for plan in missing)
        with (
            track("label", positions, "positions") as progress,
            Leases(labels.folder) as leases,
            RecordGroups(labels.folder) as groups,
            closing(_shared(labels, missing, leases, force=force)) as shards,
        ):
            bad = _BadSamples(project, labels, 0 if force else labels.quarantined)

            def on_shard(record: ShardRecord) -> None:
                groups.add(record)
                leases.release(_lease(record))
                counts.add(record)
                progress.advance(0, _so_far(counts, len(missing), expected))
                bad.add(record)

            for group in _groups(missing, execution.shards_per_task):
                _make_group(
                    project, group, shards, labeller, batch_size, on_shard, counts, progress
                )
            others = positions - progress.progress.done
            progress.advance(max(others, 0), _spent(counts.effort))
            engine.log(f"time went into: {counts.effort.said()}; {_spent(counts.effort)}")


@contextlib.contextmanager
def _labeller(
    project: Project, card: Card, labels: Labels, corpus: Corpus
) -> Iterator[Labeller | Workers]:
    """The teacher at work: here, or in processes of its own."""
    from tasks.device import pick_devices
    from tasks.labeller import LabelRequest
    from tasks.workers import Workers, threads_of

    execution = project.recipe.execution
    devices = pick_devices(execution.device, execution.processes)
    requests = [
        LabelRequest(
            store=project.store.url,
            card=card,
            teacher=project.recipe.teacher,
            recipe_folder=project.loaded.folder,
            label_set=labels.folder.url,
            spec=labels.spec,
            corpus=corpus,
            quarantine=project.recipe.labels.on_bad_sample == "quarantine",
            device=device,
            threads=threads_of(devices),
        )
        for device in devices
    ]
    if devices[0].type == "cpu" and len(devices) == 1 and execution.deadline_seconds is None:
        yield requests[0].open()
        return
    with Workers(requests, execution.deadline_seconds, execution.retries + 1) as workers:
        yield workers


class _BadSamples:
    """How many samples were set aside, and how many may be."""

    def __init__(self, project: Project, labels: Labels, there: int) -> None:
        """Begin with those that are set aside already.

        Raises:
            DataError: these are too many.
        """
        options = project.recipe.labels
        self._limit = options.max_bad if options.on_bad_sample == "quarantine" else 0.0
        self._samples = sum(project.index.samples.values())
        self._folder = labels.folder
        self._count = there
        require_few_bad((), there, self._samples, self._limit)

    def add(self, record: ShardRecord) -> None:
        """Those of another shard.

        Raises:
            DataError: they are too many.
        """
        self._count += record.quarantined
        if record.quarantined:
            bad = read_quarantine(self._folder, record)
            require_few_bad(bad, self._count, self._samples, self._limit)


def _groups(missing: Sequence[ShardPlan], size: int | None) -> Iterator[Sequence[ShardPlan]]:
    """The shards of each task run: at most so many that a flow has a hundred task runs."""
    size = size or max(_LEAST_SHARDS, -(-len(missing) // _MOST_TASK_RUNS))
    for start in range(0, len(missing), size):
        yield missing[start : start + size]


def _shared(
    labels: Labels, missing: Sequence[ShardPlan], leases: Leases, *, force: bool
) -> Generator[ShardPlan, None, None]:
    """The shards that this process has to make, while others may be making the same label set."""

    def made(shards: Sequence[ShardPlan]) -> Collection[ShardPlan]:
        return () if force else made_since(labels.folder, labels.plan, shards)

    return share(missing, _lease, made, leases)


def _lease(shard: ShardPlan | ShardRecord) -> str:
    """The name of a shard's lease."""
    return shard.record_file.removesuffix(".json")


def _so_far(counts: Counts, shards: int, expected: int) -> str:
    """Bytes so far, and about how many there will be."""
    to_come = max(expected, counts.bytes) / 1e6
    return f"shard {counts.shards_written}/{shards}, {counts.bytes / 1e6:,.1f} of {to_come:,.1f} MB"


def _spent(effort: Effort) -> str:
    """Where the time went, in words."""
    text = f"slowest: {effort.slowest.value} ({effort.shares()[effort.slowest.value]:.0%})"
    if effort.real_share < 1:
        text += f", {effort.real_share:.0%} of the tokens computed are real"
    return text


def _make_group(
    project: Project,
    group: Sequence[ShardPlan],
    shards: Iterator[ShardPlan],
    labeller: Labeller | Workers,
    batch_size: int,
    on_shard: Callable[[ShardRecord], None],
    counts: Counts,
    progress: Tracker,
) -> None:
    """Make as many shards as `group` has in one task run, named after those that come next."""
    taken: list[ShardPlan] = []
    committed: set[str] = set()

    def next_shards() -> Iterator[ShardPlan]:
        # A second try begins with what the first one took and did not commit.
        yield from [shard for shard in taken if shard.record_file not in committed]
        while len(taken) < len(group):
            shard = next(shards, None)
            if shard is None:
                return
            taken.append(shard)
            yield shard

    def work() -> None:
        labeller.label(next_shards(), batch_size, commit, counts.effort, progress.advance)

    def commit(record: ShardRecord) -> None:
        committed.add(record.record_file)
        on_shard(record)

    engine.run_task(
        "label-shards",
        work,
        project.recipe.execution,
        f"shards-{group[0].split}-{group[0].ordinal}-to-{group[-1].split}-{group[-1].ordinal}",
    )
