"""`softlabel status`: for each stage, what is done, what would run, and why.

It asks what the flows ask, and starts nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from flows import console
from flows.project import Labels, Project
from storage import layout
from storage.cards import Card, all_cards, find_card
from storage.errors import MissingProductError, SoftlabelError
from storage.reader import LabelSet
from storage.records import read_record
from tasks.intents import Intent
from tasks.planning import estimate_bytes, estimate_feature_bytes

_SHOWN_DIFFERENCES = 3
_MISSING = "(nothing)"
_DAMAGED = "its files are missing or damaged"


@dataclass(frozen=True)
class StagePlan:
    """What a stage would do.

    Attributes:
        stage: its name.
        name: the student, where it is one.
        done: whether there is nothing to do.
        why: what is there, or what is missing and which input differs from what is stored.
        fingerprint: of the product, where the stages before it are done.
        bytes_to_write: about how many, where it can be told.
    """

    stage: str
    name: str
    done: bool
    why: str
    fingerprint: str | None = None
    bytes_to_write: int | None = None


def status(recipe: str, overrides: Sequence[str], store: str | None, *, as_json: bool) -> int:
    """Print the plan of a recipe; returns the exit code."""
    project = Project.open(recipe, list(overrides) or None, store)
    plans = plan_stages(project, list(project.recipe.students))
    if as_json:
        content = {"name": project.name, "store": project.store.url}
        print(json.dumps({**content, "stages": [asdict(plan) for plan in plans]}))
        return 0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("stage", "state", "why"):
        table.add_column(column, overflow="fold")
    for plan in plans:
        state = "[green]done[/]" if plan.done else "[yellow]would run[/]"
        size = f" (about {plan.bytes_to_write:,} bytes)" if plan.bytes_to_write else ""
        table.add_row(f"{plan.stage} {plan.name}".strip(), state, plan.why + size)
    console.print_table(table)
    console.print_places([("store", project.store.url)])
    return 0


def plan_stages(project: Project, students: Sequence[str]) -> list[StagePlan]:
    """What each stage would do, in their order."""
    teacher = project.teacher_card()
    plans = [_plan_teacher(project, teacher)]
    labels: LabelSet | None = None
    if teacher is None:
        plans.append(StagePlan("label", "", False, "the teacher has to be made first"))
    else:
        wanted = project.labels(teacher)
        labels = wanted.finished()
        plans.append(_plan_labels(project, wanted, labels, teacher))
    plans += [_plan_student(project, name, labels) for name in students]
    plans.append(_plan_report(project, teacher, labels, students, plans))
    return plans


def _plan_teacher(project: Project, card: Card | None) -> StagePlan:
    intent = project.teacher_intent
    if card is not None:
        return StagePlan("teacher", "", True, f"made {card.created}", intent.fingerprint)
    why = _why(project, layout.TEACHERS, intent, all_cards(project.store, layout.TEACHERS))
    return StagePlan("teacher", "", False, why, intent.fingerprint)


def _plan_labels(
    project: Project, wanted: Labels, labels: LabelSet | None, teacher: Card
) -> StagePlan:
    fingerprint = wanted.intent.fingerprint
    count = len(wanted.plan.wanted)
    if labels is not None:
        why = f"{count} shards, digest {labels.digest[:12]}"
        return StagePlan("label", "", True, why, fingerprint)
    missing = wanted.plan.missing
    if wanted.plan.done:
        why = f"{len(missing)} of {count} shards are missing, damaged or of changed samples"
    else:
        why = _difference(wanted.intent.content, _known_label_sets(project))
    if not missing:
        why = "all shards are there, the manifest is not of them"
    size_bytes = estimate_bytes(missing, wanted.spec)
    if wanted.spec.features and missing:
        width = teacher.intent.get("teacher", {}).get("model", {}).get("width")
        features = estimate_feature_bytes(missing, wanted.spec, width)
        said = (
            "sized by the teacher before it begins" if features is None else f"{features:,} bytes"
        )
        why += f"; features: {said}"
        size_bytes += features or 0
    return StagePlan("label", "", False, why, fingerprint, size_bytes)


def _plan_student(project: Project, name: str, labels: LabelSet | None) -> StagePlan:
    if labels is None:
        return StagePlan("train", name, False, "the label set has to be finished first")
    intent = project.student_intent(name, labels)
    card = find_card(project.store, layout.STUDENTS, intent.fingerprint)
    if card is not None and not project.is_exported(name, card):
        why = "its int8 variant is asked for, and is made of the student that is there"
        return StagePlan("train", name, False, why, intent.fingerprint)
    if card is not None:
        return StagePlan("train", name, True, f"made {card.created}", intent.fingerprint)
    known = [card for card in all_cards(project.store, layout.STUDENTS) if card.name == name]
    why = _why(project, layout.STUDENTS, intent, known)
    folder = project.store / layout.product(layout.STUDENTS, intent.fingerprint)
    if (folder / layout.CHECKPOINTS).sizes():
        why = "it was interrupted and goes on from its checkpoint"
    return StagePlan("train", name, False, why, intent.fingerprint)


def _plan_report(
    project: Project,
    teacher: Card | None,
    labels: LabelSet | None,
    students: Sequence[str],
    plans: Sequence[StagePlan],
) -> StagePlan:
    if labels is None or teacher is None or not all(plan.done for plan in plans):
        return StagePlan("evaluate", "", False, "what it compares has to be made first")
    intent = project.report_intent(labels, teacher.fingerprint, students)
    card = find_card(project.store, layout.REPORTS, intent.fingerprint)
    if card is not None:
        return StagePlan("evaluate", "", True, f"made {card.created}", intent.fingerprint)
    known = [card for card in all_cards(project.store, layout.REPORTS) if card.name == project.name]
    why = _why(project, layout.REPORTS, intent, known)
    return StagePlan("evaluate", "", False, why, intent.fingerprint)


def _why(project: Project, kind: str, intent: Intent, known: Sequence[Card]) -> str:
    """Why a product with a card is not there."""
    if project.store.exists(f"{layout.product(kind, intent.fingerprint)}/{layout.CARD}"):
        return _DAMAGED
    return _difference(intent.content, known)


def _known_label_sets(project: Project) -> list[dict[str, Any]]:
    """What the label sets of the store were asked for."""
    known = []
    for name in (project.store / layout.LABELS).folders():
        folder = project.store / layout.product(layout.LABELS, name)
        with contextlib.suppress(SoftlabelError, MissingProductError, KeyError):
            known.append(read_record(folder, layout.SPEC)["intent"])
    return known


def _difference(intent: Mapping[str, Any], known: Sequence[Card] | Sequence[dict[str, Any]]) -> str:
    """Which inputs differ from the stored product that is nearest to what is asked for."""
    contents = [entry.intent if isinstance(entry, Card) else entry for entry in known]
    wanted = _flat(intent)
    nearest: list[str] | None = None
    for content in contents:
        lines = _lines(wanted, _flat(content))
        if nearest is None or len(lines) < len(nearest):
            nearest = lines
    if nearest is None:
        return "nothing of the kind is stored yet"
    more = len(nearest) - _SHOWN_DIFFERENCES
    shown = "; ".join(nearest[:_SHOWN_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")
    return shown or _DAMAGED


def _lines(wanted: Mapping[str, str], stored: Mapping[str, str]) -> list[str]:
    names = [name for name in {**wanted, **stored} if wanted.get(name) != stored.get(name)]
    return [
        f"{name}: {_short(wanted.get(name))} is asked for, {_short(stored.get(name))} is stored"
        for name in names
    ]


def _short(value: str | None, most: int = 24) -> str:
    text = _MISSING if value is None else value
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: json.dumps(value)}
    found: dict[str, str] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found
