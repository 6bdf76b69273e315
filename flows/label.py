"""The label stage: run the teacher over the data once, and keep what the recipe says of its logits.

A task run takes a group of shards; inside it each shard commits by itself. Whatever is there is
not made again.
"""

from __future__ import annotations

import time
from typing import Any

from prefect import State, flow

from flows import engine
from flows.label_work import Counts, make_shards
from flows.project import Labels, Project
from flows.watch import end_with_parent
from storage.compaction import clear_groups
from storage.leases import clear_leases
from storage.reader import LabelSet
from tasks.planning import plan_labels


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
    counts = Counts(shards_reused=len(labels.plan.done))
    finished = None if force else labels.finished()
    if finished is not None:
        project.set_current(finished, card)
        record = _record(finished, counts, "cached")
        return engine.cached(record, f"{len(labels.plan.wanted)} shards are there")
    project.store.require_writable()
    labels.folder.remove_stale_temporaries()
    if force:
        clear_groups(labels.folder)
    missing = labels.plan.wanted if force else labels.plan.missing
    counts.shards_reused = len(labels.plan.wanted) - len(missing)
    with engine.progress_artifacts():
        make_shards(project, card, labels, missing, counts, force=force)
        finished = engine.run_task(
            "finish-label-set", lambda: _finish(project, labels), project.recipe.execution
        )
    counts.shards_reused = len(labels.plan.wanted) - counts.shards_written
    project.set_current(finished, card)
    record = _record(finished, counts, "completed")
    engine.table_artifact(f"label-{project.name}", [record], "The label set")
    return record


def _finish(project: Project, labels: Labels) -> LabelSet:
    from tasks.label import finish_label_set

    plan = plan_labels(labels.folder, labels.intent.fingerprint, project.index)
    manifest = finish_label_set(labels.folder, labels.intent.fingerprint, labels.spec, plan.records)
    clear_groups(labels.folder)  # the manifest holds their records
    clear_leases(labels.folder)
    return LabelSet(labels.folder, manifest)


def _record(labels: LabelSet, counts: Counts, status: str) -> dict[str, Any]:
    return {
        "status": status,
        "seconds": round(time.monotonic() - counts.started, 3),
        "url": labels.folder.url,
        "digest": labels.digest,
        "fingerprint": labels.manifest.fingerprint,
        "shards_written": counts.shards_written,
        "shards_reused": counts.shards_reused,
        "teacher_batches": counts.effort.batches,
        "positions": counts.positions,
        "quarantined": labels.manifest.quarantined,
        "bytes": labels.manifest.size_bytes,
        **_speed(counts),
    }


def _speed(counts: Counts) -> dict[str, Any]:
    """How fast labelling was, and where the time went; nothing where nothing was made."""
    effort = counts.effort
    if effort.first_commit is None:
        return {}
    return {
        "first_shard_seconds": round(effort.first_commit - counts.started, 3),
        "load_seconds": round(effort.load_seconds, 3),
        "batch_size": counts.batch_size,
        "positions_per_second": round(counts.positions / (time.monotonic() - counts.started), 3),
        "seconds_by_step": {step.value: round(value, 3) for step, value in effort.seconds.items()},
        "shares": {name: round(share, 4) for name, share in effort.shares().items()},
        "slowest": effort.slowest.value,
        "real_tokens": round(effort.real_share, 4),
    }
