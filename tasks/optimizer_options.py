"""Which optimizers there are, and what may be said about each. Imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final, Literal

OptimizerName = Literal[
    "adamw", "adam", "sgd", "nadam", "radam", "adagrad", "rmsprop", "adafactor", "muon"
]
ARGUMENTS: Final[Mapping[OptimizerName, tuple[str, ...]]] = {
    "adamw": ("betas", "eps", "amsgrad"),
    "adam": ("betas", "eps", "amsgrad", "decoupled_weight_decay"),
    "sgd": ("momentum", "dampening", "nesterov"),
    "nadam": ("betas", "eps", "momentum_decay", "decoupled_weight_decay"),
    "radam": ("betas", "eps", "decoupled_weight_decay"),
    "adagrad": ("eps", "lr_decay", "initial_accumulator_value"),
    "rmsprop": ("alpha", "eps", "momentum", "centered"),
    "adafactor": ("beta2_decay", "eps", "d"),
    "muon": ("momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"),
}
"""What torch's own optimizers take beside the learning rate and the weight decay."""


def require_arguments(optimizer: OptimizerName, said: Mapping[str, Any]) -> None:
    """Refuse what an optimizer does not take.

    Raises:
        ValueError: it names the argument, and what there is.
    """
    known = ARGUMENTS[optimizer]
    for name in said:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"optimizer_arguments.{name}: {optimizer} takes {', '.join(known)}{hint}"
            )
