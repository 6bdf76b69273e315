"""The built-in small models, and the ones that people bring.

A model gets its inputs by position and returns logits [B, C], or [B, L, C] for blocks of tokens.
Inputs whose length varies are padded with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from storage.errors import ModelError, one_line
from storage.options import ATTENTION_MASK, Task
from storage.spec import InputSpec
from storage.targets import load_target
from tasks.model_options import CnnOptions, MlpOptions, TargetOptions, TorchModelOptions
from tasks.nn.sequence_models import build_sequence_model

_PROBE_LENGTH = 4


class Mlp(nn.Module):
    """A multilayer perceptron with GELU over its flattened, joined inputs."""

    def __init__(self, num_features: int, num_classes: int, options: MlpOptions) -> None:
        super().__init__()
        self.input_scale = options.input_scale
        sizes = [num_features, *options.hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.GELU(), nn.Dropout(options.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits [B, C] of inputs [B, ...]."""
        joined = torch.cat([_vectors(entry).float() for entry in inputs], dim=1)
        logits: Tensor = self.layers(joined * self.input_scale)
        return logits


class Cnn(nn.Module):
    """Convolutions of 3 x 3 with pooling between them, then the mean over the image."""

    def __init__(self, in_channels: int, num_classes: int, options: CnnOptions) -> None:
        super().__init__()
        self.input_scale = options.input_scale
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(pairwise([in_channels, *options.channels])):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GELU()]
            if place + 1 < len(options.channels):
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(options.channels[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, C] of images [B, channels, height, width] or [B, height, width]."""
        image = image.float() * self.input_scale
        image = image[:, None] if image.dim() == 3 else image
        logits: Tensor = self.head(self.dropout(self.features(image).mean(dim=(2, 3))))
        return logits


def build_model(
    options: TorchModelOptions,
    inputs: Sequence[InputSpec],
    num_classes: int,
    where: str,
    *,
    task: Task = Task.CLASSIFICATION,
    padded: bool = False,
) -> nn.Module:
    """The model that a recipe describes, with its first weights.

    Args:
        options: the recipe's words.
        inputs: what the model will get.
        num_classes: C.
        where: the field of the recipe, for messages.
        task: what is predicted; it decides what built-in models over sequences give.
        padded: whether a model of the user's may have outputs beyond C.

    Raises:
        ModelError: it cannot be built from these inputs, or gives another number of classes.
    """
    if isinstance(options, TargetOptions):
        model = load_module(options.target, options.arguments, where)
    elif isinstance(options, MlpOptions):
        model = Mlp(_num_features(inputs, where), num_classes, options)
    elif isinstance(options, CnnOptions):
        model = Cnn(_num_channels(inputs, where), num_classes, options)
    else:
        model = build_sequence_model(options, inputs, num_classes, task, where)
    require_classes(model, inputs, num_classes, where, padded=padded)
    return model


def load_module(target: str, arguments: dict[str, object], where: str) -> nn.Module:
    """Call a target that returns a module.

    Raises:
        ModelError: the call fails, or returns something else.
    """
    function = load_target(target)
    try:
        model = function(**arguments)
    except Exception as error:
        raise ModelError(
            f"{where}: the target {target!r} failed: {type(error).__name__}: {one_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{where}: the target {target!r} returned {type(model).__name__}, "
            "expected a torch.nn.Module"
        )
    return model


def count_classes(model: nn.Module, inputs: Sequence[InputSpec], where: str) -> int:
    """How many classes a model gives, found by running it on zeros.

    Raises:
        ModelError: it does not run on such inputs, or gives no logits [B, C] or [B, L, C].
    """
    zeros = probe_inputs(inputs)
    varies = any(entry.shape is None for entry in inputs)
    try:
        with torch.no_grad():
            was_training = model.training
            logits = model.eval()(*zeros)
            model.train(was_training)
    except Exception as error:
        shapes = ", ".join(
            f"{entry.name} {tuple(zero.shape)}" for entry, zero in zip(inputs, zeros, strict=True)
        )
        raise ModelError(
            f"{where}: the model does not run on inputs {shapes}: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error
    expected = {(2,): "[B, C]"} | ({(2, _PROBE_LENGTH): "[B, L, C]"} if varies else {})
    if not isinstance(logits, Tensor) or tuple(logits.shape[:-1]) not in expected:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        said = " or ".join(f"{letters} for {shape}" for shape, letters in expected.items())
        raise ModelError(f"{where}: expected logits {said}, got {got}")
    return int(logits.shape[-1])


def require_classes(
    model: nn.Module,
    inputs: Sequence[InputSpec],
    num_classes: int,
    where: str,
    *,
    padded: bool = False,
) -> None:
    """Refuse a model that gives another number of classes than its labels have.

    Raises:
        ModelError: it does, and the further ones are not said to be padding.
    """
    found = count_classes(model, inputs, where)
    if found == num_classes or (padded and found > num_classes):
        return
    more = f"; if its ids {num_classes} to {found - 1} are padding, say data.padded: true"
    raise ModelError(
        f"{where}: the model gives {found} classes, the labels have {num_classes}; "
        "give it as many outputs" + (more if found > num_classes else "")
    )


def probe_length(model: nn.Module) -> int:
    """The length of blocks to try a model on: its `probe_length`, where it says one.

    A model that joins positions says one, for a length that becomes one position shows little.
    """
    return int(getattr(model, "probe_length", _PROBE_LENGTH))


def probe_inputs(
    inputs: Sequence[InputSpec], batch: int = 2, length: int = _PROBE_LENGTH
) -> tuple[Tensor, ...]:
    """Zeros as a model would get them, for a batch of `batch` samples; ones as attention mask.

    Where lengths vary, samples have `length` values and no padding.
    """
    return tuple(
        torch.full(
            (batch, *(entry.shape if entry.shape is not None else (length,))),
            int(entry.name == ATTENTION_MASK),
            dtype=torch.float32 if entry.dtype.startswith("float") else torch.int64,
        )
        for entry in inputs
    )


def num_parameters(model: nn.Module) -> int:
    """Numbers that a model holds, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def _vectors(entry: Tensor) -> Tensor:
    """[B, ...] as [B, features]; one plain number a sample is a feature too."""
    return entry[:, None] if entry.dim() == 1 else entry.flatten(1)


def _num_features(inputs: Sequence[InputSpec], where: str) -> int:
    if any(entry.shape is None for entry in inputs):
        raise ModelError(
            f"{where}: an mlp needs inputs of a fixed shape; for blocks say token_transformer"
        )
    return sum(math.prod(entry.shape or (1,)) for entry in inputs)


def _num_channels(inputs: Sequence[InputSpec], where: str) -> int:
    shape = inputs[0].shape
    if len(inputs) != 1 or shape is None or len(shape) not in (2, 3):
        raise ModelError(
            f"{where}: a cnn needs one input [channels, height, width] or [height, width], got "
            f"{[entry.shape for entry in inputs]}; data.shapes can give it one"
        )
    return shape[0] if len(shape) == 3 else 1
