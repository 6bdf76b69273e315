"""What a recipe may say about students and their evaluation. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from storage.feature_options import StoredFeature
from storage.identity import Json
from storage.options import Options, SplitName
from tasks.feature_options import InitialiseOptions, MatchOptions, wanted_features
from tasks.loss_options import LossOptions
from tasks.model_options import ModelOptions
from tasks.training_options import TrainingOptions

TEACHER = "teacher"
"""What the teacher is called among the models; no student has this name."""
LEAST_SHARE = 0.001
"""The least that a label set can give to a mix."""
Limit = Annotated[str, Field(pattern=r"^\s*(>=|<=|==|>|<)\s*[-+]?[.\d]+([eE][-+]?\d+)?\s*$")]


class ExportOptions(Options):
    """What is made of a trained student beside its weights and its ONNX file."""

    int8: bool = False
    """An ONNX file with weights of 8 bits too, `model.int8.onnx`. Its agreement with the float one
    on stored samples stands in the card."""


class MixOptions(Options):
    """Another label set that a student learns from beside that of its recipe."""

    labels: Annotated[str, Field(min_length=1)]
    """The URL of the label set, or the recipe that made it (`*.yaml`); a path is relative to the
    recipe. Classes, inputs and task are those of the student's own set."""
    weight: Annotated[float, Field(ge=LEAST_SHARE, lt=1)]
    """The share of the samples that come from it; the student's own set gives the others."""


class StudentOptions(Options):
    """One student."""

    model: ModelOptions
    loss: LossOptions = LossOptions()
    match: tuple[MatchOptions, ...] = ()
    """What of its inside is to become like its teacher's."""
    teacher: Literal["stored", "live"] = "stored"
    """Where the teacher's inside comes from: the label set (`labels.features`), or the teacher
    itself, run on each batch."""
    initialise: InitialiseOptions | None = None
    """Begin with weights of the teacher."""
    mix: tuple[MixOptions, ...] = ()
    """Further label sets to learn from. They are named by their content in what is asked for."""
    training: TrainingOptions = TrainingOptions()
    export: ExportOptions = ExportOptions()
    """No part of what is trained: asked for later, it is made of the student that is there."""

    @property
    def matches(self) -> tuple[MatchOptions, ...]:
        """What is compared at any time."""
        found = list(self.match)
        for phase in self.training.phases:
            found += [entry for entry in phase.match or () if entry not in found]
        return tuple(found)

    @property
    def losses(self) -> dict[str, LossOptions]:
        """The losses of predictions at any time, by their fields."""
        phases = self.training.phases
        said = {
            f"training.phases.{index}.loss": phase.loss
            for index, phase in enumerate(phases)
            if isinstance(phase.loss, LossOptions)
        }
        used = not phases or any(phase.loss is None for phase in phases)
        return ({"loss": self.loss} if used else {}) | said

    @property
    def stored_features(self) -> tuple[str, ...]:
        """What it needs of the teacher's inside from the label set."""
        return () if self.teacher == "live" else wanted_features(self.matches)

    @property
    def last_loss(self) -> LossOptions:
        """The loss of predictions of the last phase that has one."""
        for phase in reversed(self.training.phases):
            if phase.loss != "none":
                return phase.loss or self.loss
        return self.loss

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher itself has to be there."""
        return self.teacher == "live" or self.initialise is not None

    def identity(self) -> Json:
        """What decides the weights."""
        identity = {
            "model": self.model.identity(),
            "loss": self.loss.identity(),
            "training": self.training.identity(),
        }
        if self.matches:
            identity |= {
                "match": [entry.identity() for entry in self.match],
                "teacher": self.teacher,
            }
        if self.initialise is not None:
            identity["initialise"] = self.initialise.identity()
        return identity

    @field_validator("mix")
    @classmethod
    def _something_is_left(cls, value: tuple[MixOptions, ...]) -> tuple[MixOptions, ...]:
        total = sum(entry.weight for entry in value)
        if total > 1 - LEAST_SHARE:
            raise ValueError(
                f"expected weights that leave the student's own label set a share, got {total:g} "
                "in all"
            )
        return value

    @model_validator(mode="after")
    def _every_phase_learns_something(self) -> Self:
        for index, phase in enumerate(self.training.phases):
            match = self.match if phase.match is None else phase.match
            if phase.loss == "none" and not match:
                raise ValueError(
                    f"training.phases.{index}.loss: none needs a match: nothing is left to learn"
                )
        return self

    @model_validator(mode="after")
    def _what_is_looked_into_is_not_compiled(self) -> Self:
        if self.training.compile and self.matches:
            raise ValueError(
                "training.compile: expected false with a match: a compiled model cannot be looked "
                "into"
            )
        return self

    @model_validator(mode="after")
    def _a_live_teacher_is_asked_something(self) -> Self:
        if self.teacher == "live" and not self.matches:
            raise ValueError(
                "teacher: live needs a match: soft labels are stored, and only what is inside the "
                "teacher is asked of it"
            )
        return self


def stored_misfit(student: StudentOptions, stored: Sequence[StoredFeature]) -> str | None:
    """What a student compares that is not among the features that are stored, in words."""
    by_name = {entry.feature: entry for entry in stored}
    for match in student.matches if student.teacher == "stored" else ():
        if match.layers == "uniform":
            return "match: uniform layers need teacher: live; or write the layers out"
        for name in wanted_features([match]):
            if name not in by_name:
                return (
                    f"match: {name} is not stored ({', '.join(by_name) or 'no features are'}); add "
                    f"{{feature: {name}}} to labels.features, or say teacher: live"
                )
            pool = by_name[name].pool
            if pool is not match.pool:
                return (
                    f"match: {name} is stored with pool: {pool}, expected the same, got "
                    f"{match.pool}"
                )
    return None


class EvaluationOptions(Options):
    """How models are compared."""

    splits: tuple[SplitName, ...] = ("test",)
    gates: dict[str, Limit] = Field(default_factory=dict)
    """Limits that figures of the report must meet: `distilled.test.accuracy: ">= 0.9"`."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Bootstrap resamples of an interval."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    batch_size: PositiveInt = 256
    """Samples of a batch, in scoring and in the timed speed."""
    speed: bool = True
    """Time each model; it needs no other work on the machine to mean something."""
    seed: NonNegativeInt = 0
