"""What a report comes to, in one sentence, and the paired comparisons that it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.report_models import (
    METRICS,
    TEACHER,
    Metric,
    Report,
    is_distilled,
    main_split,
    model_score,
    part,
    student_names,
)
from tasks.report_numbers import (
    DASH,
    estimate_ends,
    estimate_text,
    finite,
    or_dash,
    p_value_text,
    points_text,
)

SIGNIFICANT = 0.05


def headline(report: Report) -> str:
    """One sentence on the best distilled student: against the teacher, and against the baseline.

    The baseline is the most accurate student trained without soft labels that it was compared
    with; where there is none, the best other student. A difference counts as one below p = 0.05.
    """
    split = main_split(report)
    students = student_names(report, split)
    if not students:
        return _teacher_alone(report, split)
    subject = headline_subject(report, students)
    rivals = [s for s in students if is_distilled(report, s) == is_distilled(report, subject)]
    choice = f", the best of {len(rivals)} on {split}," if len(rivals) > 2 else ""
    against = _against_baseline(report, split, subject)
    return f"{subject}{choice} {_against_teacher(report, split, subject)}{against}."


def headline_subject(report: Report, students: Sequence[str]) -> str:
    """The best student that saw soft labels; the best of all where none did."""
    return next((s for s in students if is_distilled(report, s)), students[0])


def _teacher_alone(report: Report, split: str) -> str:
    accuracy = model_score(report, TEACHER, split, "accuracy")
    if finite(accuracy) is None:
        return "No student was evaluated."
    return (
        f"No student was evaluated; the teacher reaches {_accuracy(report, accuracy)} on {split}."
    )


def _accuracy(report: Report, estimate: Any) -> str:
    value = finite(estimate)
    return f"{estimate_text(value, percent=True)} {_accuracy_noun(report)}"


def _accuracy_noun(report: Report) -> str:
    return "next-token accuracy" if report.get("task") == "causal_lm" else "accuracy"


def _against_teacher(report: Report, split: str, student: str) -> str:
    retention = finite(model_score(report, student, split, "retention"))
    accuracy = model_score(report, student, split, "accuracy")
    size = _relative_size(report, student)
    if retention is not None:
        kept = estimate_text(retention, percent=True)
        return f"keeps {kept} of the teacher's {_accuracy_noun(report)}{size}"
    if finite(accuracy) is not None:
        return f"reaches {_accuracy(report, accuracy)} on {split}{size}"
    return f"was evaluated on {split}{size}"


def _relative_size(report: Report, student: str) -> str:
    own = finite(part(report, "models", student).get("parameters"))
    teachers = finite(part(report, "models", TEACHER).get("parameters"))
    if not own or not teachers:
        return ""
    if teachers / own >= 1.05:
        return f" with {_times(teachers / own)} times fewer parameters"
    return (
        f" with {_times(own / teachers)} times as many parameters" if own / teachers >= 1.05 else ""
    )


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"


def _against_baseline(report: Report, split: str, student: str) -> str:
    found = told_comparison(report, split, student)
    if found is None:
        return ""
    shown = estimate_text(found.difference, percent=True, sign="+")
    if not found.differs:
        claim = f"there is no difference that this {split} split can show"
        reason = f"{shown}, {found.chance}" if found.chance else shown
        return f"; against {found.b} {claim} ({reason})"
    value = finite(found.difference) or 0.0
    word = "and is {} points better than" if value > 0 else "but is {} points worse than"
    return f", {word.format(points_text(abs(value)))} {found.b} ({found.chance or shown})"


def told_comparison(report: Report, split: str, student: str) -> "Comparison | None":
    """Seen from the student: with the best baseline, else with the best other student."""
    order = {model: place for place, model in enumerate(student_names(report, split))}
    found = [
        comparison.seen_from(student)
        for comparison in comparisons_of(report)
        if (comparison.split, comparison.metric) == (split, "accuracy")
        and student in (comparison.a, comparison.b)
        and finite(comparison.difference) is not None
    ]
    known = [comparison for comparison in found if comparison.b in order]
    return min(known, key=lambda c: (is_distilled(report, c.b), order[c.b]), default=None)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same samples: `difference` is a minus b."""

    split: str
    metric: str
    a: str
    b: str
    difference: Any
    p_value: float | None

    @property
    def differs(self) -> bool:
        """By p; by the interval where p is not known."""
        if self.p_value is not None:
            return self.p_value < SIGNIFICANT
        _, low, high = (finite(end) for end in estimate_ends(self.difference))
        return low is not None and high is not None and (low > 0 or high < 0)

    @property
    def chance(self) -> str:
        """`p = 0.03`; empty where p is not known."""
        text = p_value_text(self.p_value)
        return "" if text == DASH else f"p {text}" if text.startswith("<") else f"p = {text}"

    @property
    def reading(self) -> str:
        """Which of the two is better, if the difference shows."""
        value = finite(self.difference)
        if value is None:
            return DASH
        more = METRICS.get(self.metric, Metric("")).more_is_better
        return (
            f"{self.a if (value > 0) == more else self.b} is better"
            if self.differs
            else "no difference shown"
        )

    def seen_from(self, model: str) -> "Comparison":
        """The same comparison with this model as `a`."""
        if model == self.a:
            return self
        value, low, high = (finite(end) for end in estimate_ends(self.difference))
        turned = [None if end is None else -end for end in (value, high, low)]
        ends = dict(zip(("value", "low", "high"), turned, strict=True))
        return replace(self, a=self.b, b=self.a, difference=ends)


def comparisons_of(report: Report) -> list[Comparison]:
    """The report's paired comparisons, in its order."""
    return [
        Comparison(
            split=or_dash(row.get("split")),
            metric=or_dash(row.get("metric")),
            a=or_dash(row.get("a")),
            b=or_dash(row.get("b")),
            difference=row.get("difference"),
            p_value=finite(row.get("p_value")),
        )
        for row in report.get("comparisons") or ()
    ]
