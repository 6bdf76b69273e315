"""The phases of a training: one after the other, each with a loss and a schedule of its own.

As TinyBERT does (Jiao et al. 2020, arXiv 1909.10351): the weights and the stream of batches go on
from one phase to the next; optimizer, warm-up, schedule, early stopping and the best epoch begin
anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.loss_options import LossOptions
from tasks.training_options import TrainingOptions


@dataclass(frozen=True)
class Phase:
    """One of them.

    Attributes:
        index: which, from 0.
        loss: what is minimised.
        training: how; `epochs` are those of the phase.
    """

    index: int
    loss: LossOptions
    training: TrainingOptions


def phases_of(loss: LossOptions, training: TrainingOptions) -> tuple[Phase, ...]:
    """The phases that a recipe says; without any, training is one."""
    if not training.phases:
        return (Phase(0, loss, training),)
    found = []
    for index, said in enumerate(training.phases):
        own = {name: getattr(said, name) for name in ("learning_rate", "schedule", "warmup")}
        changes = {name: value for name, value in own.items() if value is not None}
        changed = training.model_copy(update={**changes, "epochs": said.epochs, "phases": ()})
        found.append(Phase(index, said.loss or loss, changed))
    return tuple(found)
