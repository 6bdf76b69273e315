"""The report: every model against the teacher and each other, from stored results.

`report.json` is what scripts compare; `report.html` and `report.md` say the same to people.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from storage import layout
from storage.cards import Card, publish
from storage.files import Folder
from storage.options import DataOptions
from storage.reader import LabelSet
from storage.summary import describe_label_set, samples_of
from tasks.gates import check_gates
from tasks.intents import Intent
from tasks.nn.metrics import Bootstrap, Results, compare, figures
from tasks.options import TEACHER, EvaluationOptions, StudentOptions
from tasks.render import render_html, render_markdown
from tasks.score import read_results

_COMPARED = ("accuracy", "nll")
NOTES = (
    "Quality is computed from the stored labels; the teacher was not run for it.",
    "KL to the teacher is over the stored entries and the rest: a lower bound of the full one.",
    "Intervals are bootstrap intervals over samples; p-values are of sign-flip permutation tests, "
    "not corrected for the number of comparisons.",
)


@dataclass(frozen=True)
class Model:
    """One model of a comparison.

    Attributes:
        name: what the recipe calls it.
        results: the card of its stored results.
        facts: what else the report says of it: parameters, bytes, speed, loss.
    """

    name: str
    results: Card
    facts: Mapping[str, Any]


def build_report(
    store: Folder,
    name: str,
    labels: LabelSet,
    data: DataOptions,
    teacher: Mapping[str, Any],
    models: Sequence[Model],
    options: EvaluationOptions,
    fingerprint: str,
    version: str,
) -> dict[str, Any]:
    """The content of `report.json`.

    Args:
        store: where the results lie.
        name: of the recipe.
        labels: the label set that all were scored on.
        data: the user's data.
        teacher: what is known of the teacher.
        models: the teacher first, then the students.
        options: how models are compared.
        fingerprint: of the report.
        version: of softlabel.
    """
    spec = labels.spec
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    results = {
        split: {model.name: read_results(store, model.results, split) for model in models}
        for split in options.splits
    }
    report: dict[str, Any] = {
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "softlabel_version": version,
        "fingerprint": fingerprint,
        "task": spec.task.value,
        "data": {
            "name": data.name,
            "classes": spec.num_classes,
            "class_names": list(spec.class_names) if spec.class_names else None,
            "samples": samples_of(labels),
        },
        "teacher": dict(teacher),
        "label_set": describe_label_set(labels),
        "models": {
            model.name: {
                "splits": {
                    split: figures(
                        by_name[model.name],
                        by_name[TEACHER],
                        bootstrap,
                        language_model=spec.task.is_language_model,
                    )
                    for split, by_name in results.items()
                },
                **model.facts,
            }
            for model in models
        },
        "comparisons": _comparisons(results, bootstrap),
        "notes": list(NOTES),
    }
    report["gates"] = check_gates(report, options.gates)
    return cast("dict[str, Any]", _finite(report))


def publish_report(
    store: Folder,
    report: dict[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    intent: Intent,
) -> Card:
    """Write the three forms of a report and its card."""
    text = json.dumps(report, indent=1, allow_nan=False)
    return publish(
        store,
        layout.REPORTS,
        intent.fingerprint,
        name=report["name"],
        intent=intent.content,
        details={"gates_passed": all(gate["passed"] for gate in report["gates"])},
        files={
            layout.REPORT_JSON: text.encode() + b"\n",
            layout.REPORT_HTML: render_html(report, histories).encode(),
            layout.REPORT_MARKDOWN: render_markdown(report).encode(),
        },
    )


def loss_facts(options: StudentOptions, temperature: float) -> dict[str, Any]:
    """What the report says of the loss that a student ends with; `temperature` is the set's T."""
    loss = options.last_loss
    said = loss.model_dump(mode="json")
    facts = {name: said[name] for name in ("soft", "soft_weight", "temperature", "tail")}
    if facts["temperature"] is None:
        facts["temperature"] = temperature
    identity = loss.identity()
    return facts | {name: identity[name] for name in ("beta", "alpha") if name in identity}


def _finite(value: Any) -> Any:
    """The same with null where a figure is infinite, as the NLL of a class without mass is."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _comparisons(
    results: Mapping[str, Mapping[str, Results]], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    return [
        {"split": split, "metric": metric, "a": a, "b": b}
        | compare(by_name[a], by_name[b], metric, bootstrap)
        for split, by_name in results.items()
        for metric in _COMPARED
        for a, b in _pairs(list(by_name))
        if by_name[a].has_labels
    ]


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each two students, and each student with the teacher."""
    students = [name for name in names if name != TEACHER]
    return [
        *itertools.combinations(students, 2),
        *((student, TEACHER) for student in students),
    ]
