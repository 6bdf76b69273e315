"""What a report says of its models: scores, splits, order, gates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.report_numbers import finite

Report = Mapping[str, Any]
TEACHER = "teacher"


@dataclass(frozen=True)
class Metric:
    """How a metric is written, and which way is better."""

    label: str
    percent: bool = False
    more_is_better: bool = True


METRICS = {
    "accuracy": Metric("Accuracy", percent=True),
    "retention": Metric("Retention", percent=True),
    "agreement": Metric("Agreement", percent=True),
    "nll": Metric("NLL", more_is_better=False),
    "perplexity": Metric("Perplexity", more_is_better=False),
    "ece": Metric("ECE", more_is_better=False),
    "kl_to_teacher": Metric("KL to teacher", more_is_better=False),
}


def part(report: Report, *path: str) -> Report:
    """A dict inside the report; empty where a key on the way is missing or null."""
    for key in path:
        report = report.get(key) or {}
    return report


def model_score(report: Report, model: str, split: str, metric: str) -> Any:
    """The estimate of one metric; retention is that of accuracy."""
    scores = part(report, "models", model, "splits", split)
    return (
        part(scores, "retention").get("accuracy") if metric == "retention" else scores.get(metric)
    )


def split_names(report: Report) -> list[str]:
    """Every split that a model was evaluated on: `test` first, the others as they come."""
    models = part(report, "models")
    names = dict.fromkeys(split for model in models for split in part(models, model, "splits"))
    return sorted(names, key=lambda split: split != "test")


def main_split(report: Report) -> str:
    """The split that the headline and the plots tell of."""
    return next(iter(split_names(report)), "test")


def ranking(report: Report, split: str) -> list[str]:
    """The models of a split: the teacher, then the students, the most accurate first."""

    def place(model: str) -> tuple[bool, float, float, str]:
        accuracy = finite(model_score(report, model, split, "accuracy"))
        nll = finite(model_score(report, model, split, "nll"))
        worst = math.inf
        order = (worst if accuracy is None else -accuracy, worst if nll is None else nll)
        return model != TEACHER, *order, model

    models = part(report, "models")
    return sorted((m for m in models if split in part(models, m, "splits")), key=place)


def student_names(report: Report, split: str) -> list[str]:
    """The students of a split, the most accurate first."""
    return [model for model in ranking(report, split) if model != TEACHER]


def is_distilled(report: Report, model: str) -> bool:
    """Whether soft labels had a part in its training; true where the loss is not said."""
    return finite(part(report, "models", model, "loss").get("soft_weight", 1.0)) != 0.0


def gate_verdict(report: Report) -> tuple[str, bool] | None:
    """How the gates went, in words and as a truth; None without gates."""
    gates = report.get("gates") or ()
    failed = sum(not gate.get("passed") for gate in gates)
    if not gates:
        return None
    noun = "gate" if len(gates) == 1 else "gates"
    return (
        f"{failed} of {len(gates)} {noun} failed" if failed else f"{len(gates)} {noun} passed"
    ), not failed
