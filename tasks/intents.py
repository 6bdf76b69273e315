"""What each stage is asked for: the content of its fingerprint, spelled in one place.

An intent says all that decides a product's bytes, and nothing that does not: no path, no device, no
number of workers. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage import identity
from storage.corpus import CorpusIndex
from storage.errors import DataError, RecipeError
from storage.identity import Json
from storage.options import TRAIN, VALIDATION, DataOptions, LabelOptions, Task
from storage.sources import resolve
from storage.spec import FORMAT_VERSION
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.onnx_options import OnnxTeacherOptions
from tasks.options import EvaluationOptions, StudentOptions
from tasks.teacher_options import (
    EnsembleTeacherOptions,
    FitTeacherOptions,
    ImportedTeacherOptions,
    TeacherOptions,
    TorchTeacherOptions,
    by_place,
)

# Raised by hand when the code makes other bytes of the same intent.
FIT_CODE_VERSION = 2
LABEL_CODE_VERSION = 3
SCORE_CODE_VERSION = 1
REPORT_CODE_VERSION = 1

PRECISION = "float32"


@dataclass(frozen=True)
class Intent:
    """What is asked for, and the fingerprint that names it."""

    content: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """16 hex digits."""
        return identity.fingerprint(self.content)


def fitted_teacher(
    options: FitTeacherOptions,
    data: DataOptions,
    index: CorpusIndex,
    made: Mapping[str, Any] | None = None,
    model_files: Json | None = None,
) -> Intent:
    """A teacher that is trained on the data.

    Args:
        options: the teacher's.
        data: the user's data.
        index: what they hold.
        made: what decides the samples beside the options: a tokenizer, the order of classes.
        model_files: what beside the options decides a Hugging Face model.

    Raises:
        DataError: there is no training split, or no label to learn from.
    """
    if TRAIN not in index.samples:
        raise DataError(
            f"data.splits: a fitted teacher learns from the split {TRAIN!r}; there is: "
            f"{', '.join(index.samples)}"
        )
    if not index.has_label:
        raise DataError("data.label: a fitted teacher learns from hard labels; name their column")
    content = {
        "code_version": FIT_CODE_VERSION,
        "teacher": options.identity(),
        "data": data.identity() | dict(made or {}),
        "num_classes": data.num_classes or index.num_labels,
    }
    if model_files is not None:
        content["model_files"] = model_files
    if options.refit == "on_change":
        content["content"] = {
            split: index.digests[split] for split in (TRAIN, VALIDATION) if split in index.digests
        }
    return Intent(content)


def imported_teacher(
    options: ImportedTeacherOptions, weights_digest: str, task: Task = Task.CLASSIFICATION
) -> Intent:
    """A teacher that people bring: its architecture and the digest of its weights.

    What is made of a Hugging Face model depends on the task too.
    """
    content = {"teacher": options.identity(), "weights": weights_digest}
    if isinstance(options, HuggingFaceTeacherOptions):
        content["task"] = task.value
    return Intent(content)


def ensemble(options: EnsembleTeacherOptions, members: Sequence[Intent]) -> Intent:
    """Several teachers, each with an intent of its own.

    Raises:
        RecipeError: two of them are one and the same teacher, from two places.
    """
    for place, member in enumerate(members):
        for earlier, other in enumerate(members[:place]):
            if member.fingerprint == other.fingerprint:
                raise RecipeError(
                    f"teacher.members: {earlier} and {place} have the same weights; leave one out, "
                    "and give the other the sum of their weights"
                )
    content = options.identity() | {
        "members": by_place(
            {"share": share, "teacher": member.content}
            for share, member in zip(options.shares, members, strict=True)
        )
    }
    return Intent({"teacher": content})


def label_set(
    data: DataOptions,
    labels: LabelOptions,
    teacher: Mapping[str, Any],
    weights_digest: str,
    made: Mapping[str, Any] | None = None,
) -> Intent:
    """A label set: data by name, teacher by weights, and the label options.

    Args:
        data: the user's data.
        labels: the label options.
        teacher: what of the teacher's intent decides logits, beside the weights.
        weights_digest: the sha256 of the teacher's weights.
        made: what decides the samples beside the options: a tokenizer, the order of classes.
    """
    return Intent(
        {
            "code_version": LABEL_CODE_VERSION,
            "format_version": FORMAT_VERSION,
            "precision": PRECISION,
            "data": data.identity() | dict(made or {}),
            "labels": labels.identity(),
            "teacher": {**teacher, "weights": weights_digest},
        }
    )


def teacher_source(options: TorchTeacherOptions | OnnxTeacherOptions, folder: Path) -> str:
    """Where the weights of an imported teacher lie; a path is relative to `folder`."""
    return resolve(named_source(options), folder)


def named_source(options: ImportedTeacherOptions) -> str:
    """Where an imported teacher comes from, as the recipe says it."""
    if isinstance(options, HuggingFaceTeacherOptions):
        return options.source
    return options.path if isinstance(options, OnnxTeacherOptions) else options.weights


def teacher_architecture(options: TeacherOptions) -> dict[str, Any]:
    """What of a teacher's options decides its logits, beside the weights."""
    if isinstance(options, FitTeacherOptions):
        return {"model": options.model.identity()}
    if isinstance(options, EnsembleTeacherOptions):
        members = by_place(
            {"share": share, **teacher_architecture(member.teacher)}
            for share, member in zip(options.shares, options.members, strict=True)
        )
        return {"mix": options.mix.value, "members": members}
    return {"model": options.identity()}


def asked_teacher(options: TeacherOptions) -> dict[str, Any]:
    """A teacher by its words alone, for finding what was made of them: weights by their names."""
    asked: dict[str, Any] = options.identity()
    if isinstance(options, EnsembleTeacherOptions):
        members = by_place(asked_teacher(member.teacher) for member in options.members)
        return asked | {"members": members, "shares": list(options.shares)}
    if not isinstance(options, FitTeacherOptions):
        asked["source"] = named_source(options)
    return asked


def shard(label_set_fingerprint: str, samples_digest: str) -> str:
    """A shard's fingerprint: the label set's and the ids and content of its samples."""
    return identity.fingerprint([label_set_fingerprint, samples_digest])


def student(
    options: StudentOptions,
    label_set_fingerprint: str,
    digest: str,
    model_files: Json | None = None,
    teacher_weights: str | None = None,
    mixed: Sequence[Json] = (),
) -> Intent:
    """A student: its options and the label set that it learns from.

    Args:
        options: the student's.
        label_set_fingerprint: of the label set.
        digest: of the label set.
        model_files: what beside the options decides a Hugging Face model.
        teacher_weights: the digest of the teacher's, where the student needs the teacher itself.
        mixed: further label sets, each by fingerprint, digest and share.
    """
    content = {
        "code_version": FIT_CODE_VERSION,
        "student": options.identity(),
        "label_set": {"fingerprint": label_set_fingerprint, "digest": digest},
    }
    if model_files is not None:
        content["model_files"] = model_files
    if teacher_weights is not None:
        content["teacher_weights"] = teacher_weights
    if mixed:
        content["mixed"] = list(mixed)
    return Intent(content)


def predictions(model: str, digest: str) -> Intent:
    """One model's results on a label set: `model` is a student's fingerprint, or `teacher`."""
    return Intent({"code_version": SCORE_CODE_VERSION, "model": model, "digest": digest})


def report(
    name: str,
    evaluation: EvaluationOptions,
    digest: str,
    teacher: str,
    students: Mapping[str, str],
) -> Intent:
    """A comparison: the students by name and fingerprint, on one label set."""
    return Intent(
        {
            "code_version": REPORT_CODE_VERSION,
            "name": name,
            "evaluation": evaluation.identity(),
            "digest": digest,
            "teacher": teacher,
            "students": dict(students),
        }
    )
