"""One training step after another: a learner, its optimizers, schedule and random state.

The learning rate is a function of the step, so it needs no state. The state that `state` gives and
`restore` takes continues training bit by bit on the same kind of device. All ranks take the same
steps: what decides anything is a sum over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import NotFiniteError
from tasks.nn.batch import Batch
from tasks.nn.counts import Counts
from tasks.nn.gradients import HARD, SOFT, TOTAL, Gradients
from tasks.nn.learner import Learner
from tasks.nn.not_finite import Suspects, suspects_of
from tasks.nn.optimizers import optimizers_of
from tasks.nn.precision import Precision, require_precision
from tasks.nn.random_state import random_state, seed_rank, set_random_state
from tasks.nn.ranks import Alone, Ranks
from tasks.training_options import TrainingOptions


@dataclass(frozen=True)
class StepResult:
    """The losses of one step over all ranks, as plain numbers, and its learning rate.

    Attributes:
        loss: what was differentiated.
        soft_loss: the soft loss, or None where it has no weight.
        hard_loss: the hard loss, or None where it has no weight.
        learning_rate: of this step.
        samples: of the global batch.
        matched: what else was compared with the teacher, by name.
    """

    loss: float
    soft_loss: float | None
    hard_loss: float | None
    learning_rate: float
    samples: int
    matched: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains one model for a known number of steps.

    Attributes:
        learner: the model with all that it is taught by.
        training: how it is trained just now.
        total_steps: how many steps that takes.
        step_number: how many of them are done.
    """

    def __init__(
        self,
        learner: Learner,
        training: TrainingOptions,
        total_steps: int,
        device: torch.device,
        ranks: Ranks | None = None,
        where: str = "training",
    ) -> None:
        """`where` is the field of the recipe, for messages.

        Raises:
            RecipeError: the optimizer or the precision is not to be had here.
        """
        require_precision(training.precision, device, where)
        self.learner = learner.to(device).train()
        self.learner.make_logits(training.logits)
        self.device = device
        self.ranks = ranks or Alone()
        self.precision = Precision(training.precision, device)
        self._where = where
        self.begin(training, total_steps)
        self.gradients = Gradients(
            self.learner, self.precision, self.ranks, device, training.micro_batch_size
        )
        seed_rank(training.seed, self.ranks.rank, self.step_number)

    def begin(self, training: TrainingOptions, total_steps: int) -> None:
        """Go on with the same weights, but with another optimizer and schedule from its begin."""
        self.training = training
        self.total_steps = total_steps
        self.step_number = 0
        self.optimizers = optimizers_of(self.learner, training, self._where)

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        return self.learner.model

    def step(self, batch: Batch) -> StepResult:
        """Learn from one global batch.

        Args:
            batch: this rank's part of it.

        Raises:
            ModelError: the model gives logits for other positions than have labels, or memory
                suffices for no sample.
            NotFiniteError: the loss or its gradient is NaN or infinite; the weights are then as
                before.
        """
        batch = batch.to(self.device)
        rate = learning_rate(self.training, self.step_number, self.total_steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.learner.train()
        losses, counts = self.gradients.of(batch, self.done)
        figures = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
        if not math.isfinite(figures[TOTAL]):
            raise self._not_finite("loss", figures[TOTAL], batch, counts)
        self._learn(batch, counts)
        self.step_number += 1
        return StepResult(
            figures.pop(TOTAL),
            figures.pop(SOFT, None),
            figures.pop(HARD, None),
            rate,
            counts.samples,
            figures,
        )

    @property
    def done(self) -> float:
        """The share of all steps that are done."""
        return self.step_number / self.total_steps

    def state(self) -> dict[str, Any]:
        """All that training goes on from; tensors, numbers, lists and dicts only."""
        return {
            "learner": self.learner.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "precision": self.precision.state(),
            "step": self.step_number,
            "random": random_state(self.device),
            "micro_batch_size": self.gradients.micro_batch_size,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, on any rank."""
        self.learner.load_state_dict(state["learner"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.precision.restore(state["precision"])
        self.step_number = int(state["step"])
        set_random_state(state["random"], self.device)
        seed_rank(self.training.seed, self.ranks.rank, self.step_number)
        self.gradients.restrict(state["micro_batch_size"])

    def _learn(self, batch: Batch, counts: Counts) -> None:
        """Clip what is in the gradients, and let the optimizers take their step."""
        learning = [entry for entry in self.optimizers if _has_gradients(entry)]
        for optimizer in learning:
            self.precision.unscale(optimizer)
        # Clipping to an infinite norm changes nothing, and tells the norm.
        limit = math.inf if self.training.clip_norm is None else self.training.clip_norm
        norm: Tensor = nn.utils.clip_grad_norm_(self.learner.parameters(), limit)
        if bool(torch.isfinite(norm)):
            for optimizer in learning:
                self.precision.step(optimizer)
            self.precision.after_step()
        elif not self.precision.halve():
            raise self._not_finite("norm of the gradient", norm.item(), batch, counts)

    def _not_finite(self, name: str, value: float, batch: Batch, counts: Counts) -> NotFiniteError:
        """Every rank says the same, and names the samples of the rank that has them."""
        own = suspects_of(self.learner, batch, counts, self.done)
        said = self.ranks.gather([str(own)] if own else [])
        found = " and ".join(said) or str(Suspects("the batch of", batch.sample_ids))
        return NotFiniteError(
            f"step {self.step_number}: the {name} is {value}, from {found}; lower "
            "training.learning_rate, or look at these samples"
        )


def _has_gradients(optimizer: torch.optim.Optimizer) -> bool:
    return any(
        entry.grad is not None for group in optimizer.param_groups for entry in group["params"]
    )


def learning_rate(training: TrainingOptions, step: int, total_steps: int) -> float:
    """The learning rate of a step: a linear rise, then the schedule down to 0."""
    warmup_steps = int(training.warmup * total_steps)
    if step < warmup_steps:
        return training.learning_rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return training.learning_rate * (1 - done if training.schedule == "linear" else 1.0)
