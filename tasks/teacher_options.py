"""What a recipe may say about its teacher. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from storage.identity import Json
from storage.options import Options, built
from tasks.huggingface_options import HuggingFaceTeacherOptions
from tasks.model_options import ModelOptions, Target
from tasks.onnx_options import OnnxTeacherOptions
from tasks.options import TrainingOptions


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


ImportedTeacherOptions = TorchTeacherOptions | OnnxTeacherOptions | HuggingFaceTeacherOptions
"""A teacher that people bring."""
TeacherOptions = FitTeacherOptions | ImportedTeacherOptions
TEACHER_KINDS = ("fit", "torch", "onnx", "huggingface")
PLANNED_TEACHER_KINDS = ("ensemble",)


def _kind_is_built(value: Any) -> Any:
    if isinstance(value, dict):
        built(*TEACHER_KINDS, planned=PLANNED_TEACHER_KINDS)(value.get("kind"))
    return value


TeacherChoice = Annotated[
    Annotated[TeacherOptions, Field(discriminator="kind")], BeforeValidator(_kind_is_built)
]
