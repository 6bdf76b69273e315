"""The phases of a training: one after the other, each with a loss and a schedule of its own.

As TinyBERT does (Jiao et al. 2020, arXiv 1909.10351): the weights and the stream of batches go on
from one phase to the next; optimizer, warm-up, schedule, early stopping and the best epoch begin
anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tasks.feature_options import MatchOptions
from tasks.loss_options import LossOptions
from tasks.training_options import TrainingOptions

_NOTHING: Final = LossOptions().model_copy(update={"soft_weight": 0.0, "hard_weight": 0.0})
"""What a recipe cannot say of a whole training: predictions do not count."""


@dataclass(frozen=True)
class Phase:
    """One of them.

    Attributes:
        index: which, from 0.
        loss: of predictions, what is minimised.
        match: what of the inside is compared.
        training: how; `epochs` are those of the phase.
        judged: what the validation split is judged by.
        watched: whether epochs are compared at all: not where predictions do not count.
    """

    index: int
    loss: LossOptions
    match: tuple[MatchOptions, ...]
    training: TrainingOptions
    judged: LossOptions
    watched: bool = True


def phases_of(
    loss: LossOptions, match: Sequence[MatchOptions], training: TrainingOptions
) -> tuple[Phase, ...]:
    """The phases that a recipe says; without any, training is one.

    Args:
        loss: where a phase says none.
        match: the same.
        training: how the model is trained.
    """
    if not training.phases:
        return (Phase(0, loss, tuple(match), training, loss),)
    found = []
    for index, said in enumerate(training.phases):
        own = {name: getattr(said, name) for name in ("learning_rate", "schedule", "warmup")}
        changes = {name: value for name, value in own.items() if value is not None}
        changed = training.model_copy(update={**changes, "epochs": said.epochs, "phases": ()})
        compared = tuple(match) if said.match is None else said.match
        if said.loss == "none":
            found.append(Phase(index, _NOTHING, compared, changed, loss, watched=False))
        else:
            minimised = said.loss or loss
            found.append(Phase(index, minimised, compared, changed, minimised))
    return tuple(found)
