"""Which models there are, for students and fitted teachers. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from storage.options import Options
from tasks.huggingface_options import HuggingFaceModelOptions
from tasks.sequence_options import (
    ByteMlpOptions,
    ByteTransformerOptions,
    TokenTransformerOptions,
)

Target = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


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


TorchModelOptions = (
    MlpOptions
    | CnnOptions
    | TokenTransformerOptions
    | ByteTransformerOptions
    | ByteMlpOptions
    | TargetOptions
)
"""A model that needs torch alone."""
ModelOptions = Annotated[
    TorchModelOptions | HuggingFaceModelOptions,
    Field(discriminator="kind"),
]
