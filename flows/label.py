"""The label stage: run the teacher over the data once, and keep what the recipe says of its logits.

A task run takes a group of shards; inside it each shard commits by itself. Whatever is there is
not made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from prefect import State, flow

from flows import engine
from flows.project import Labels, Project
from flows.watch import end_with_parent
from storage import layout
from storage.cards import Card
from storage.compaction import RecordGroups, clear_groups
from storage.corpus import Corpus
from storage.leases import Leases, clear_leases
from storage.reader import LabelSet
from storage.records import ShardRecord, write_record
from storage.sharing import share
from storage.writer import ShardPlan
from tasks.planning import made_since, plan_labels
from tasks.progress import track

_MOST_TASK_RUNS = 100
_LEAST_SHARDS = 4


@dataclass
class _Counts:
    """What a run of the stage has done so far."""

    shards_written: int = 0
    shards_reused: int = 0
    teacher_batches: int = 0
    positions: int = 0
    bytes: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, record: ShardRecord, batch_size: int) -> None:
        """A shard was committed."""
        self.shards_written += 1
        self.teacher_batches += -(-record.rows // batch_size)
        self.positions += record.positions
        self.bytes += record.size_bytes


@flow(name="label", persist_result=False)
def label(
    recipe: str,
    overrides: list[str] | None = None,
    store: str | None = None,
    force: bool = False,
) -> dict[str, Any] | State[dict[str, Any]]:
    """Make the label set that a recipe asks for, but for the shards that are there.

    Args:
        recipe: a path or URL.
        overrides: `path.of.field=value`.
        store: another store than the recipe's.
        force: make all shards again.
    """
    end_with_parent()
    project = Project.open(recipe, overrides, store)
    card = project.require_teacher()
    labels = project.labels(card, compact=True)
    engine.rename_run(f"label-{project.name}-{labels.intent.fingerprint[:4]}")
    counts = _Counts(shards_reused=len(labels.plan.done))
    finished = None if force else labels.finished()
    if finished is not None:
        project.set_current(finished, card)
        record = _record(finished, counts, "cached")
        return engine.cached(record, f"{len(labels.plan.wanted)} shards are there")
    project.store.require_writable()
    labels.folder.remove_stale_temporaries()
    _write_spec(project, labels)
    if force:
        clear_groups(labels.folder)
    missing = labels.plan.wanted if force else labels.plan.missing
    counts.shards_reused = len(labels.plan.wanted) - len(missing)
    with engine.progress_artifacts():
        _make(project, card, labels, missing, counts, force=force)
        finished = engine.run_task(
            "finish-label-set", lambda: _finish(project, labels), project.recipe.execution
        )
    counts.shards_reused = len(labels.plan.wanted) - counts.shards_written
    project.set_current(finished, card)
    record = _record(finished, counts, "completed")
    engine.table_artifact(f"label-{project.name}", [record], "The label set")
    return record


def _make(
    project: Project,
    card: Card,
    labels: Labels,
    missing: Sequence[ShardPlan],
    counts: _Counts,
    *,
    force: bool,
) -> None:
    """Make the missing shards, a group a task run; what is there shows as `Cached`.

    Other processes that make the same label set take other shards.
    """
    from tasks.device import pick_device
    from tasks.estimate import estimate_by_probe, require_space
    from tasks.teach import load_teacher

    execution = project.recipe.execution
    if counts.shards_reused:
        reused = f"reuse-{counts.shards_reused}-shards"
        engine.run_task(reused, lambda: engine.cached({}, "these shards are there"), execution)
    if not missing:
        return
    device = pick_device(execution.device)
    corpus = Corpus.load(project.recipe.data, project.loaded.folder)
    teacher = load_teacher(
        project.store,
        card,
        project.recipe.teacher,
        project.loaded.folder,
        labels.spec.inputs,
        device,
    )
    batch_size = project.recipe.labels.batch_size
    expected = estimate_by_probe(missing, labels.spec, corpus, teacher, batch_size)
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

        def on_shard(record: ShardRecord) -> None:
            groups.add(record)
            counts.add(record, batch_size)
            progress.advance(record.positions, _so_far(counts, len(missing), expected))

        for group in _groups(missing, execution.shards_per_task):
            _make_group(project, labels, group, shards, corpus, teacher, on_shard)
        if counts.positions < positions:
            progress.advance(positions - counts.positions, "the others made the rest")


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

    return share(missing, lambda shard: shard.record_file.removesuffix(".json"), made, leases)


def _so_far(counts: _Counts, shards: int, expected: int) -> str:
    """Bytes so far, and about how many there will be."""
    to_come = max(expected, counts.bytes) / 1e6
    return f"shard {counts.shards_written}/{shards}, {counts.bytes / 1e6:,.1f} of {to_come:,.1f} MB"


def _make_group(
    project: Project,
    labels: Labels,
    group: Sequence[ShardPlan],
    shards: Iterator[ShardPlan],
    corpus: Corpus,
    teacher: Any,
    on_shard: Callable[[ShardRecord], None],
) -> None:
    """Make as many shards as `group` has in one task run, named after those that come next."""
    from tasks.label import LabelWork, label_shards

    batch_size = project.recipe.labels.batch_size
    taken: list[ShardPlan] = []
    committed = 0

    def next_shards() -> Iterator[ShardPlan]:
        # A second try begins with what the first one took and did not commit.
        yield from taken[committed:]
        while len(taken) < len(group):
            shard = next(shards, None)
            if shard is None:
                return
            taken.append(shard)
            yield shard

    def work() -> LabelWork:
        return label_shards(
            labels.folder, next_shards(), labels.spec, corpus, teacher, batch_size, commit
        )

    def commit(record: ShardRecord) -> None:
        nonlocal committed
        committed += 1
        on_shard(record)

    engine.run_task(
        "label-shards",
        work,
        project.recipe.execution,
        f"shards-{group[0].split}-{group[0].ordinal}-to-{group[-1].split}-{group[-1].ordinal}",
    )


def _finish(project: Project, labels: Labels) -> LabelSet:
    from tasks.label import finish_label_set

    plan = plan_labels(labels.folder, labels.intent.fingerprint, project.index)
    manifest = finish_label_set(labels.folder, labels.intent.fingerprint, labels.spec, plan.records)
    clear_groups(labels.folder)  # the manifest holds their records
    clear_leases(labels.folder)
    return LabelSet(labels.folder, manifest)


def _write_spec(project: Project, labels: Labels) -> None:
    """Say what the set is, before its first shard: enough to make any of its shards again."""
    if labels.folder.exists(layout.SPEC):
        return
    content = {
        "fingerprint": labels.intent.fingerprint,
        "intent": labels.intent.content,
        "form": labels.spec.model_dump(mode="json"),
        "recipe": project.loaded.raw,
        "recipe_folder": str(project.loaded.folder),
    }
    write_record(labels.folder, layout.SPEC, content)


def _record(labels: LabelSet, counts: _Counts, status: str) -> dict[str, Any]:
    return {
        "status": status,
        "seconds": round(time.monotonic() - counts.started, 3),
        "url": labels.folder.url,
        "digest": labels.digest,
        "fingerprint": labels.manifest.fingerprint,
        "shards_written": counts.shards_written,
        "shards_reused": counts.shards_reused,
        "teacher_batches": counts.teacher_batches,
        "positions": counts.positions,
        "quarantined": labels.manifest.quarantined,
        "bytes": labels.manifest.size_bytes,
    }
