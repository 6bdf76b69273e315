"""What a recipe may say about students and their evaluation. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from storage.identity import Json
from storage.options import Options, SplitName
from tasks.feature_options import InitialiseOptions, MatchOptions
from tasks.loss_options import LossOptions
from tasks.model_options import ModelOptions
from tasks.training_options import TrainingOptions

TEACHER = "teacher"
"""What the teacher is called among the models; no student has this name."""
Limit = Annotated[str, Field(pattern=r"^\s*(>=|<=|==|>|<)\s*[-+]?[.\d]+([eE][-+]?\d+)?\s*$")]


class ExportOptions(Options):
    """What is made of a trained student beside its weights and its ONNX file."""

    int8: bool = False
    """An ONNX file with weights of 8 bits too, `model.int8.onnx`. Its agreement with the float one
    on stored samples stands in the card."""


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
    training: TrainingOptions = TrainingOptions()
    export: ExportOptions = ExportOptions()
    """No part of what is trained: asked for later, it is made of the student that is there."""

    @property
    def matches(self) -> tuple[MatchOptions, ...]:
        """What is compared at any time."""
        return self.match

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

    @model_validator(mode="after")
    def _a_live_teacher_is_asked_something(self) -> Self:
        if self.teacher == "live" and not self.matches:
            raise ValueError(
                "teacher: live needs a match: soft labels are stored, and only what is inside the "
                "teacher is asked of it"
            )
        return self


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
