"""What a recipe may say about students, training and evaluation. Imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from storage.identity import Json
from storage.options import Options, SplitName, Temperature, built
from tasks.model_options import ModelOptions

TEACHER = "teacher"
"""What the teacher is called among the models; no student has this name."""
Limit = Annotated[str, Field(pattern=r"^\s*(>=|<=|==|>|<)\s*[-+]?[.\d]+([eE][-+]?\d+)?\s*$")]
Share = Annotated[float, Field(ge=0, le=1)]


class SoftLoss(StrEnum):
    """Which divergence from the teacher is minimised."""

    FORWARD_KL = "forward_kl"
    SAMPLED = "sampled"
    """Cross-entropy over the draws of `labels.keep: sample`: unbiased for the full one."""


class Tail(StrEnum):
    """What is done about the classes that are not kept."""

    REST = "rest"
    RENORMALIZE = "renormalize"
    IGNORE = "ignore"


def kept_set_fault(*, drawn: bool) -> str:
    """Why a loss does not fit what is kept: drawn classes and true kept sets are not the same."""
    if drawn:
        return (
            "expected sampled with labels.keep: sample; every other loss is biased over draws, for "
            "they are no kept set"
        )
    return "sampled needs draws; set labels.keep: sample, or another loss"


SoftLossChoice = Annotated[
    SoftLoss,
    BeforeValidator(built(*SoftLoss, planned=("reverse_kl", "jsd", "skew_kl", "mse"))),
]


class LossOptions(Options):
    """The soft loss, the hard loss, and how they are mixed."""

    soft: SoftLossChoice = SoftLoss.FORWARD_KL
    soft_weight: Share = 0.5
    hard_weight: Share | None = None
    """None means 1 - soft_weight."""
    temperature: Temperature | None = None
    """One of the stored temperatures; None means the first of them, T."""
    tail: Tail = Tail.REST
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def hard_share(self) -> float:
        """The weight of the hard loss."""
        return 1.0 - self.soft_weight if self.hard_weight is None else self.hard_weight

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if self.soft_weight == 0 and self.hard_share == 0:
            raise ValueError("soft_weight and hard_weight are both 0: there is nothing to learn")
        return self


class TrainingOptions(Options):
    """How a model is trained."""

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 64
    """Samples of a step."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.05
    """The share of all steps in which the learning rate rises from 0."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """The largest norm of the gradient; None clips nothing."""
    seed: NonNegativeInt = 0
    window: PositiveInt = 16
    """Row groups that are shuffled together."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 15.0
    """At least so long between two checkpoints."""

    def identity(self) -> Json:
        """What decides the weights; not when they are saved meanwhile."""
        return self.model_dump(mode="json", exclude={"checkpoint_seconds"})


class StudentOptions(Options):
    """One student."""

    model: ModelOptions
    loss: LossOptions = LossOptions()
    training: TrainingOptions = TrainingOptions()

    def identity(self) -> Json:
        """What decides the weights."""
        return {
            "model": self.model.identity(),
            "loss": self.loss.identity(),
            "training": self.training.identity(),
        }


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
