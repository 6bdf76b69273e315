"""What a recipe may say about teachers, students and evaluation. Imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from storage.identity import Json
from storage.options import ColumnName, Options, SplitName, Temperature, built

TEACHER = "teacher"
"""What the teacher is called among the models; no student has this name."""
Target = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
Limit = Annotated[str, Field(pattern=r"^\s*(>=|<=|==|>|<)\s*[-+]?[.\d]+([eE][-+]?\d+)?\s*$")]
Share = Annotated[float, Field(ge=0, le=1)]


class MlpOptions(Options):
    """A multilayer perceptron over the flattened inputs."""

    kind: Literal["mlp"]
    hidden: tuple[PositiveInt, ...] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    input_scale: float = 1.0
    """Inputs are multiplied by it first."""


class CnnOptions(Options):
    """A small convolutional network over one input [channels, height, width]."""

    kind: Literal["cnn"]
    channels: tuple[PositiveInt, ...] = (16, 32)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    input_scale: float = 1.0
    """Inputs are multiplied by it first."""


class TargetOptions(Options):
    """A Python callable that returns a `torch.nn.Module` over the inputs, by position."""

    kind: Literal["torch"]
    target: Target
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What the callable is called with, by name."""


ModelOptions = Annotated[MlpOptions | CnnOptions | TargetOptions, Field(discriminator="kind")]


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


class OnnxTeacherOptions(Options):
    """An ONNX model. Its logits are taken from a named output."""

    kind: Literal["onnx"]
    path: str
    """The ONNX file: a path relative to the recipe, or a URL."""
    output: str | None = None
    """The output, or inner tensor, that holds the logits; None means the only output."""
    input_names: tuple[ColumnName, ...] | None = None
    """The graph's inputs for `data.inputs`, by position; None means the graph's own order."""

    def identity(self) -> Json:
        """What decides the logits, but for the weights' content."""
        return self.model_dump(mode="json", exclude={"path"})


TeacherOptions = FitTeacherOptions | TorchTeacherOptions | OnnxTeacherOptions
TEACHER_KINDS = ("fit", "torch", "onnx")
PLANNED_TEACHER_KINDS = ("huggingface", "ensemble")


def _kind_is_built(value: Any) -> Any:
    if isinstance(value, dict):
        built(*TEACHER_KINDS, planned=PLANNED_TEACHER_KINDS)(value.get("kind"))
    return value


TeacherChoice = Annotated[
    Annotated[TeacherOptions, Field(discriminator="kind")], BeforeValidator(_kind_is_built)
]


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
