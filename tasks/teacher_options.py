"""What a recipe may say about its teacher. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from storage.identity import Json
from storage.options import Options
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.model_options import ModelOptions, Target
from tasks.onnx_options import OnnxTeacherOptions
from tasks.options import TEACHER
from tasks.training_options import TrainingOptions


class FitTeacherOptions(Options):
    """A teacher that is trained here, on the hard labels of the training split."""

    kind: Literal["fit"]
    model: ModelOptions
    training: TrainingOptions = TrainingOptions()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    refit: Literal["on_change", "never"] = "on_change"
    """Whether it is fitted again when the data change, or kept when a corpus grows."""

    def identity(self) -> Json:
        """What decides the weights, but for the data."""
        return {
            "kind": self.kind,
            "model": self.model.identity(),
            "training": self.training.identity(),
            "label_smoothing": self.label_smoothing,
        }

    @model_validator(mode="after")
    def _phases_learn_hard_labels(self) -> Self:
        for index, phase in enumerate(self.training.phases):
            if phase.match or phase.loss is not None:
                raise ValueError(
                    f"training.phases.{index}: a teacher learns hard labels in every phase; leave "
                    "out loss and match"
                )
        return self


class TorchTeacherOptions(Options):
    """A PyTorch model that people bring, with its weights as safetensors."""

    kind: Literal["torch"]
    target: Target
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What the callable is called with, by name."""
    weights: str
    """A safetensors file: a path relative to the recipe, or a URL."""

    def identity(self) -> Json:
        """What decides the logits, but for the weights' content."""
        return self.model_dump(mode="json", exclude={"weights"})


ImportedTeacherOptions = TorchTeacherOptions | OnnxTeacherOptions | HuggingFaceTeacherOptions
"""A teacher that people bring."""
PlainTeacherOptions = FitTeacherOptions | ImportedTeacherOptions
"""One teacher by itself, which may be a member of several."""


class Mix(StrEnum):
    """What is averaged over several teachers."""

    PROBABILITIES = "probabilities"
    """The mean of the members' softmax at T=1: a class has mass where any member gives it some."""
    LOGITS = "logits"
    """The mean of the members' logits: a class that one member masks with -inf is masked."""


class MemberOptions(Options):
    """One of several teachers."""

    teacher: Annotated[PlainTeacherOptions, Field(discriminator="kind")]
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Weights are relative: only their ratio counts."""


class EnsembleTeacherOptions(Options):
    """Several teachers over the same inputs and classes, mixed before anything is kept."""

    kind: Literal["ensemble"]
    members: Annotated[tuple[MemberOptions, ...], Field(min_length=2)]
    mix: Mix = Mix.PROBABILITIES

    @model_validator(mode="after")
    def _members_differ(self) -> Self:
        for place, member in enumerate(self.members):
            for earlier, other in enumerate(self.members[:place]):
                if member.teacher == other.teacher:
                    raise ValueError(
                        f"members holds one teacher twice, as {earlier} and {place}; give it the "
                        "sum of their weights"
                    )
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights, summing to 1."""
        total = math.fsum(member.weight for member in self.members)
        return tuple(member.weight / total for member in self.members)

    def identity(self) -> Json:
        """What decides the logits, but for the content of weights."""
        return {
            "kind": self.kind,
            "mix": self.mix.value,
            "members": by_place(
                {"share": share, "teacher": member.teacher.identity()}
                for share, member in zip(self.shares, self.members, strict=True)
            ),
        }


def by_place(entries: Iterable[Json]) -> dict[str, Json]:
    """Entries by their places as words, so that differences of two such lists can be named."""
    return {str(place): entry for place, entry in enumerate(entries)}


TeacherOptions = PlainTeacherOptions | EnsembleTeacherOptions
TeacherChoice = Annotated[TeacherOptions, Field(discriminator="kind")]


def plain_teachers(options: TeacherOptions) -> tuple[PlainTeacherOptions, ...]:
    """The teachers that have weights: the members of several, or the one itself."""
    if isinstance(options, EnsembleTeacherOptions):
        return tuple(member.teacher for member in options.members)
    return (options,)


def member_place(place: int) -> str:
    """The field of the recipe that says a member of several teachers, for messages."""
    return f"{TEACHER}.members.{place}.teacher"
