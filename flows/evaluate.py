"""The evaluate stage: students against the teacher and each other, from the stored labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from prefect import State, flow

from flows import engine
from flows.project import Project
from flows.watch import end_with_parent
from storage import layout
from storage.cards import Card, find_card, read_file
from storage.errors import MissingProductError, SoftlabelError
from storage.reader import LabelSet
from tasks.intents import Intent
from tasks.options import TEACHER
from tasks.sequence_options import TransformerSizes
from tasks.teacher_options import FitTeacherOptions, plain_teachers


@flow(name="evaluate", persist_result=False)
def evaluate(
    recipe: str,
    overrides: list[str] | None = None,
    store: str | None = None,
    force: bool = False,
    students: list[str] | None = None,
) -> dict[str, Any] | State[dict[str, Any]]:
    """Compare the students of a recipe, unless the report is there.

    Args:
        recipe: a path or URL.
        overrides: `path.of.field=value`.
        store: another store than the recipe's.
        force: measure speed and write the report again.
        students: only these; all by default.
    """
    started = time.monotonic()
    end_with_parent()
    project = Project.open(recipe, overrides, store)
    names = project.chosen_students(students)
    labels, teacher = project.require_labels()
    cards = {name: _require_student(project, name, labels) for name in names}
    intent = project.report_intent(labels, teacher.fingerprint if teacher else "", names)
    engine.rename_run(f"evaluate-{project.name}-{intent.fingerprint[:4]}")
    card = None if force else find_card(project.store, layout.REPORTS, intent.fingerprint)
    if card is not None:
        return engine.cached(_record(project, card, "cached", started), "the report is there")
    project.store.require_writable()
    with engine.progress_artifacts():
        card = _compare(project, labels, teacher, cards, intent)
    markdown = read_file(project.store, card, layout.REPORT_MARKDOWN).decode()
    record = _record(project, card, "completed", started)
    engine.report_artifacts(f"report-{project.name}", markdown, record["html"])
    return record


def _require_student(project: Project, name: str, labels: LabelSet) -> Card:
    card = project.student_card(name, labels)
    if card is None:
        raise MissingProductError(
            f"there is no student {name!r} of this recipe on the label set {labels.digest[:12]} in "
            f"{project.store.url}; run: softlabel run {project.loaded.source} --stage train"
        )
    return card


def _compare(
    project: Project,
    labels: LabelSet,
    teacher: Card | None,
    cards: dict[str, Card],
    intent: Intent,
) -> Card:
    """Score each model, each a task run, then write the report."""
    from tasks.report import Model, build_report, publish_report

    models = [_score(project, labels, TEACHER, None, _teacher_facts(project, labels, teacher))]
    models += [
        _score(project, labels, name, card, _student_facts(project, labels, name, card))
        for name, card in cards.items()
    ]

    def write() -> Card:
        report = build_report(
            project.store,
            project.name,
            labels,
            project.recipe.data,
            _describe_teacher(project, teacher),
            [Model(name, results, facts) for name, results, facts in models],
            project.recipe.evaluation,
            intent.fingerprint,
            version("softlabel"),
        )
        return publish_report(project.store, report, _histories(project, cards), intent)

    return engine.run_task("write-report", write, project.recipe.execution)


def _score(
    project: Project,
    labels: LabelSet,
    name: str,
    card: Card | None,
    facts: Callable[[], dict[str, Any]],
) -> tuple[str, Card, dict[str, Any]]:
    from tasks.device import pick_device
    from tasks.score import score
    from tasks.students import load_student

    recipe = project.recipe
    device = pick_device(recipe.execution.device)

    def work() -> tuple[Card, dict[str, Any]]:
        model = None
        if card is not None:
            model = load_student(project.store, card, recipe.students[name], labels.spec)
            model = model.to(device)
        model_id = card.fingerprint if card is not None else TEACHER
        options = recipe.evaluation
        results = score(
            project.store, labels, name, model_id, model, options.splits, options.batch_size, device
        )
        return results, facts()

    results, known = engine.run_task("score", work, recipe.execution, f"score-{name}")
    return name, results, known


def _teacher_facts(
    project: Project, labels: LabelSet, card: Card | None
) -> Callable[[], dict[str, Any]]:
    """The teacher's size, and its speed where it can still be run."""

    def facts() -> dict[str, Any]:
        from tasks.device import pick_device
        from tasks.speed import measure_speed
        from tasks.teach import load_teacher

        if card is None:
            return {"parameters": None, "size_bytes": None}
        known = {key: card.details[key] for key in ("parameters", "size_bytes")}
        if not project.recipe.evaluation.speed:
            return known
        try:
            teacher = load_teacher(
                project.store,
                card,
                project.recipe.teacher,
                project.loaded.folder,
                labels.spec.inputs,
                pick_device(project.recipe.execution.device),
            )
        except SoftlabelError as error:
            engine.log(f"the teacher's speed is left out: {error}")
            return known
        batch_size = project.recipe.evaluation.batch_size
        return known | measure_speed(teacher.logits, labels.spec.inputs, batch_size)

    return facts


def _student_facts(
    project: Project, labels: LabelSet, name: str, card: Card
) -> Callable[[], dict[str, Any]]:
    """A student's model, loss, size and speed."""

    def facts() -> dict[str, Any]:
        from tasks.device import pick_device
        from tasks.report import loss_facts
        from tasks.speed import measure_speed
        from tasks.students import load_student
        from tasks.teachers import TorchTeacher

        options = project.recipe.students[name]
        known = {key: card.details[key] for key in ("parameters", "size_bytes")} | {
            "fingerprint": card.fingerprint,
            "loss": loss_facts(options, labels.spec.temperature),
            "model": _describe_model(options.model),
        }
        if not project.recipe.evaluation.speed:
            return known
        model = load_student(project.store, card, options, labels.spec)
        device = pick_device(project.recipe.execution.device)
        runner = TorchTeacher(model, labels.spec.inputs, device, f"students.{name}")
        batch_size = project.recipe.evaluation.batch_size
        return known | measure_speed(runner.logits, labels.spec.inputs, batch_size)

    return facts


def _describe_model(options: Any) -> str:
    said = options.model_dump(mode="json", exclude_defaults=True)
    shape = said.get("hidden") or said.get("channels") or said.get("target") or ""
    shape = shape or said.get("model") or ""
    if isinstance(options, TransformerSizes):
        shape = f"{options.layers} x {options.width}"
    return f"{options.kind} {shape}".strip()


def _describe_teacher(project: Project, card: Card | None) -> dict[str, Any]:
    options = project.recipe.teacher
    models = [
        one.model if isinstance(one, FitTeacherOptions) else one for one in plain_teachers(options)
    ]
    return {
        "kind": options.kind,
        "fingerprint": card.fingerprint if card else None,
        "weights_digest": card.details["weights_digest"] if card else None,
        "model": " + ".join(map(_describe_model, models)),
    }


def _histories(project: Project, cards: dict[str, Card]) -> dict[str, list[dict[str, Any]]]:
    from tasks.history import read_history

    return {
        name: read_history(read_file(project.store, card, layout.HISTORY))
        for name, card in cards.items()
    }


def _record(project: Project, card: Card, status: str, started: float) -> dict[str, Any]:
    url = project.store.url_of(layout.product(layout.REPORTS, card.fingerprint))
    return {
        "status": status,
        "seconds": round(time.monotonic() - started, 3),
        "url": url,
        "fingerprint": card.fingerprint,
        "report": f"{url}/{layout.REPORT_JSON}",
        "html": f"{url}/{layout.REPORT_HTML}",
        "gates_passed": card.details["gates_passed"],
    }
