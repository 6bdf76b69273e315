"""Building a model over tokens or bytes, and how many numbers it will hold."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from storage.errors import ModelError
from storage.options import Task
from storage.spec import InputSpec
from tasks.nn.byte_models import (
    ByteMlp,
    ByteTransformer,
    byte_mlp_parameters,
    byte_transformer_parameters,
)
from tasks.nn.sequence_form import SequenceForm
from tasks.nn.token_models import TokenTransformer, require_vocabulary, token_parameters
from tasks.sequence_options import (
    ByteMlpOptions,
    SequenceOptions,
    TokenTransformerOptions,
)


def build_sequence_model(
    options: SequenceOptions, inputs: Sequence[InputSpec], num_classes: int, task: Task, where: str
) -> nn.Module:
    """A model over tokens or bytes, with its first weights.

    Raises:
        ModelError: the inputs are no sequence of ids, or the options do not fit the task.
    """
    form = SequenceForm.of(inputs, task, where)
    if isinstance(options, TokenTransformerOptions):
        require_vocabulary(options, num_classes, task, where)
        return TokenTransformer(options, num_classes, form)
    if task.has_many_positions and (
        isinstance(options, ByteMlpOptions) or (options.patch or 1) > 1
    ):
        raise ModelError(
            f"{where}: the task {task} needs logits for each byte; say kind: byte_transformer with "
            "patch: 1"
        )
    if isinstance(options, ByteMlpOptions):
        return ByteMlp(options, num_classes, form)
    return ByteTransformer(options, num_classes, form)


def sequence_parameters(options: SequenceOptions, num_classes: int, form: SequenceForm) -> int:
    """How many numbers such a model holds, worked out from its options alone.

    Args:
        options: of the model.
        num_classes: C.
        form: what the data decide.
    """
    if isinstance(options, TokenTransformerOptions):
        return token_parameters(options, num_classes, form)
    if isinstance(options, ByteMlpOptions):
        return byte_mlp_parameters(options, num_classes, form)
    return byte_transformer_parameters(options, num_classes, form)
