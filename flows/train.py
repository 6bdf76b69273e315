"""The train stage: students from stored labels, without the teacher and without the data."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from prefect import State, flow

from flows import engine
from flows.project import Project
from flows.train_model import Made, train_model
from flows.watch import end_with_parent
from storage import layout
from storage.cards import Card
from storage.reader import LabelSet


@flow(name="train", persist_result=False)
def train(
    recipe: str,
    overrides: list[str] | None = None,
    store: str | None = None,
    force: bool = False,
    students: list[str] | None = None,
) -> dict[str, Any] | State[dict[str, Any]]:
    """Train the students that a recipe asks for, but for those that are there.

    Args:
        recipe: a path or URL.
        overrides: `path.of.field=value`.
        store: another store than the recipe's.
        force: train them again.
        students: only these; all by default.
    """
    started = time.monotonic()
    end_with_parent()
    project = Project.open(recipe, overrides, store)
    names = project.chosen_students(students)
    labels, teacher = project.require_labels()
    engine.rename_run(f"train-{project.name}-{labels.digest[:4]}")
    there = {} if force else _there(project, names, labels)
    record: dict[str, Any] = {
        "status": "cached",
        "url": project.store.url_of(layout.STUDENTS),
        "label_set": labels.folder.url,
        "digest": labels.digest,
    }
    if len(there) == len(names):
        record |= {"seconds": _since(started), "students": _rows(project, there, there)}
        return engine.cached(record, f"{len(names)} students are there")
    project.store.require_writable()
    cards = dict(there)
    with engine.progress_artifacts():
        for name in names:
            if name not in there:
                cards[name] = _make(project, name, labels, teacher, force=force)
    rows = _rows(project, cards, there)
    record |= {"status": "completed", "seconds": _since(started), "students": rows}
    engine.table_artifact(
        f"train-{project.name}", [{"name": name, **row} for name, row in rows.items()], "Students"
    )
    return record


def _there(project: Project, names: list[str], labels: LabelSet) -> dict[str, Card]:
    """The students that are there, with all the files that are asked for."""
    cards = {name: project.student_card(name, labels) for name in names}
    return {
        name: card
        for name, card in cards.items()
        if card is not None and project.is_exported(name, card)
    }


def _make(
    project: Project, name: str, labels: LabelSet, teacher: Card | None, *, force: bool
) -> Card:
    """Train a student; one that only lacks a file that is made of it is not trained again."""
    card = None if force else project.student_card(name, labels)
    if card is None:
        return _train(project, name, labels, teacher, force=force)

    def export() -> Card:
        from tasks.student_files import export_student

        return export_student(project.store, card, labels, f"students.{name}.export.int8")

    return engine.run_task("export-student", export, project.recipe.execution, f"student-{name}")


def _train(
    project: Project, name: str, labels: LabelSet, teacher: Card | None, *, force: bool
) -> Card:
    from tasks.checkpoints import clear_checkpoints
    from tasks.live_teacher import TeacherSource
    from tasks.students import train_student

    intent = project.student_intent(name, labels)
    if force:
        folder = project.store / layout.product(layout.STUDENTS, intent.fingerprint)
        clear_checkpoints(folder)
    origin = project.origin(teacher.fingerprint if teacher else None, labels)
    options = project.recipe.students[name]
    live = None
    if options.needs_teacher:
        card = project.require_card_of(name, teacher)
        said, recipe_folder = project.recipe.teacher, project.loaded.folder
        live = TeacherSource(project.store, card, said, recipe_folder, labels.spec.inputs)
    training = partial(
        train_student,
        project.store,
        name,
        options,
        labels,
        intent,
        recipe_folder=project.loaded.folder,
        origin=origin,
        teacher=live,
        mixed=project.mixed_labels(name),
    )
    made = Made(layout.STUDENTS, intent.fingerprint, f"students.{name}", options.training.processes)
    return engine.run_task(
        "train-student",
        lambda: train_model(project, training, made),
        project.recipe.execution,
        f"student-{name}",
    )


def _rows(
    project: Project, cards: dict[str, Card], there: dict[str, Card]
) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "status": "cached" if name in there else "completed",
            "url": project.store.url_of(layout.product(layout.STUDENTS, card.fingerprint)),
            "fingerprint": card.fingerprint,
            "parameters": card.details["parameters"],
            "steps": card.details["steps"],
        }
        for name, card in cards.items()
    }


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
