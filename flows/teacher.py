"""The teacher stage: fit a teacher here, or import one by the digest of its weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from prefect import State, flow

from flows import engine
from flows.project import Project
from flows.train_model import Made, train_model
from flows.watch import end_with_parent
from storage import layout
from storage.cards import Card, find_card
from tasks.options import TEACHER
from tasks.teacher_options import (
    EnsembleTeacherOptions,
    FitTeacherOptions,
    PlainTeacherOptions,
    member_place,
)


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
        card = _make(project, force)
    record = _record(project, card, "completed", started)
    engine.table_artifact(f"teacher-{project.name}", [record], "The teacher")
    return record


def _make(project: Project, force: bool) -> Card:
    """Make the teacher; of several first each that is not there, as a task run of its own."""
    options = project.recipe.teacher
    if not isinstance(options, EnsembleTeacherOptions):
        return _make_one(project, options, TEACHER, force=force)
    members = [
        _make_member(project, member.teacher, place, force=force)
        for place, member in enumerate(options.members)
    ]

    def join() -> Card:
        from tasks.teach import join_teachers

        return join_teachers(project.store, options, members, project.teacher_intent)

    return _run(project, join, TEACHER, options.kind)


def _make_member(
    project: Project, options: PlainTeacherOptions, place: int, *, force: bool
) -> Card:
    where = member_place(place)
    fingerprint = project.intent_of(options, where).fingerprint
    card = None if force else find_card(project.store, layout.TEACHERS, fingerprint)
    return card or _make_one(project, options, where, force=force)


def _make_one(project: Project, options: PlainTeacherOptions, where: str, *, force: bool) -> Card:
    intent = project.intent_of(options, where)

    def make() -> Card:
        from tasks.checkpoints import clear_checkpoints
        from tasks.fit_teacher import fit_teacher
        from tasks.teach import import_teacher

        store, folder = project.store, project.loaded.folder
        if not isinstance(options, FitTeacherOptions):
            return import_teacher(store, options, folder, project.index.inputs, intent, where)
        if force:
            clear_checkpoints(store / layout.product(layout.TEACHERS, intent.fingerprint))
        training = partial(
            fit_teacher,
            store,
            options,
            project.open_corpus(),
            project.num_classes,
            intent,
            recipe_folder=folder,
            where=where,
            origin=project.origin(),
            class_names=project.data.class_names,
        )
        processes = options.training.processes
        return train_model(
            project, training, Made(layout.TEACHERS, intent.fingerprint, where, processes)
        )

    return _run(project, make, where, options.kind)


def _run(project: Project, make: Callable[[], Card], where: str, kind: str) -> Card:
    name = where.removesuffix(f".{TEACHER}").replace(".", "-")
    return engine.run_task("make-teacher", make, project.recipe.execution, f"{name}-{kind}")


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
