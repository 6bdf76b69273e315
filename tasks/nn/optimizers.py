"""Optimizers by name, from torch.

`muon` is for the matrices inside a network: everything else (embeddings, biases, the scales of
norms) learns by AdamW beside it, at the same learning rate. So an optimizer here may be several,
each over parameters of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from storage.errors import RecipeError, one_line
from tasks.training_options import TrainingOptions

_CLASSES: Final[Mapping[str, type[torch.optim.Optimizer]]] = {
    name.lower(): getattr(torch.optim, name)
    for name in (
        "AdamW", "Adam", "SGD", "NAdam", "RAdam", "Adagrad", "RMSprop", "Adafactor", "Muon",
    )
    if hasattr(torch.optim, name)
}  # fmt: skip
# Updates of the size that AdamW's have, so that one learning rate suits both.
_MUON_DEFAULTS: Final = {"adjust_lr_fn": "match_rms_adamw"}


def optimizers_of(
    module: nn.Module, training: TrainingOptions, where: str
) -> list[torch.optim.Optimizer]:
    """The optimizers of all parameters that learn, each parameter in one of them.

    Raises:
        RecipeError: this version of torch has none of that name, or refuses its arguments.
    """
    name, arguments = training.optimizer, dict(training.optimizer_arguments)
    learning = {key: value for key, value in module.named_parameters() if value.requires_grad}
    if name != "muon":
        return [_optimizer(name, list(learning.values()), training, arguments, where)]
    matrices = _matrices(module, learning)
    others = [value for key, value in learning.items() if key not in matrices]
    found = []
    if matrices:
        arguments = _MUON_DEFAULTS | arguments
        found.append(_optimizer(name, list(matrices.values()), training, arguments, where))
    if others:
        found.append(_optimizer("adamw", others, training, {}, where))
    return found


def _optimizer(
    name: str,
    parameters: Sequence[nn.Parameter],
    training: TrainingOptions,
    arguments: dict[str, Any],
    where: str,
) -> torch.optim.Optimizer:
    if name not in _CLASSES:
        raise RecipeError(
            f"{where}.optimizer: {name} is not in torch {torch.__version__}; there is: "
            f"{', '.join(_CLASSES)}"
        )
    arguments = {key: _value(value) for key, value in arguments.items()}
    make: Any = _CLASSES[name]
    try:
        made: torch.optim.Optimizer = make(
            parameters, lr=training.learning_rate, weight_decay=training.weight_decay, **arguments
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}.optimizer_arguments: {name}: {one_line(error)}") from error
    return made


def _matrices(module: nn.Module, learning: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The matrices that are multiplied with: not those in which rows are looked up."""
    embedded = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, nn.Embedding)
        for parameter in part.parameters(recurse=False)
    }
    return {
        key: value
        for key, value in learning.items()
        if value.dim() == 2 and id(value) not in embedded
    }


def _value(value: Any) -> Any:
    """A value of YAML as torch wants it: pairs are tuples."""
    return tuple(value) if isinstance(value, list) else value
