"""The teacher stage: fit a teacher here, or import one by the digest of its weights."""

from __future__ import annotations

import time
from typing import Any

from prefect import State, flow

from flows import engine
from flows.project import Project
from flows.watch import end_with_parent
from storage import layout
from storage.cards import Card
from tasks.teacher_options import FitTeacherOptions


@flow(name="teacher", persist_result=False)
def teacher(
    recipe: str,
    overrides: list[str] | None = None,
    store: str | None = None,
    force: bool = False,
) -> dict[str, Any] | State[dict[str, Any]]:
    """Make the teacher that a recipe asks for, unless it is there.

    Args:
        recipe: a path or URL.
        overrides: `path.of.field=value`.
        store: another store than the recipe's.
        force: make it again.
    """
    started = time.monotonic()
    end_with_parent()
    project = Project.open(recipe, overrides, store)
    fingerprint = project.teacher_intent.fingerprint
    engine.rename_run(f"teacher-{project.name}-{fingerprint[:4]}")
    card = None if force else project.teacher_card()
    if card is not None:
        record = _record(project, card, "cached", started)
        return engine.cached(record, f"teacher {fingerprint} is there")
    project.store.require_writable()
    with engine.progress_artifacts():
        card = engine.run_task(
            "make-teacher",
            lambda: _make(project, force),
            project.recipe.execution,
            f"teacher-{project.recipe.teacher.kind}",
        )
    record = _record(project, card, "completed", started)
    engine.table_artifact(f"teacher-{project.name}", [record], "The teacher")
    return record


def _make(project: Project, force: bool) -> Card:
    from tasks.checkpoints import clear_checkpoints
    from tasks.device import pick_device
    from tasks.teach import fit_teacher, import_teacher

    options = project.recipe.teacher
    intent = project.teacher_intent
    if not isinstance(options, FitTeacherOptions):
        inputs = project.index.inputs
        return import_teacher(project.store, options, project.loaded.folder, inputs, intent)
    if force:
        folder = project.store / layout.product(layout.TEACHERS, intent.fingerprint)
        clear_checkpoints(folder)
    device = pick_device(project.recipe.execution.device)
    return fit_teacher(
        project.store,
        options,
        project.open_corpus(),
        project.num_classes,
        intent,
        device,
        project.loaded.folder,
    )


def _record(project: Project, card: Card, status: str, started: float) -> dict[str, Any]:
    return {
        "status": status,
        "seconds": round(time.monotonic() - started, 3),
        "url": project.store.url_of(layout.product(layout.TEACHERS, card.fingerprint)),
        "digest": card.details["weights_digest"],
        "fingerprint": card.fingerprint,
        "num_classes": card.details["num_classes"],
        "parameters": card.details["parameters"],
    }
