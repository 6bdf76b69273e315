"""One training step after another: model, optimizer, schedule and random state, and nothing else.

The learning rate is a function of the step, so it needs no state. The state that `state` gives and
`restore` takes continues training bit by bit on the same kind of device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import NotFiniteError
from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch
from tasks.nn.learner import Counts, Learner
from tasks.training_options import TrainingOptions

_NAMED_IDS = 3


@dataclass(frozen=True)
class StepResult:
    """The losses of one step, as plain numbers, and its learning rate."""

    loss: float
    soft_loss: float | None
    hard_loss: float | None
    learning_rate: float


class Trainer:
    """Trains one model for a known number of steps."""

    def __init__(
        self,
        model: nn.Module,
        loss: LossOptions,
        training: TrainingOptions,
        total_steps: int,
        device: torch.device,
    ) -> None:
        self.model = model.to(device).train()
        self.learner = Learner(self.model, loss)
        self.loss = loss
        self.training = training
        self.total_steps = total_steps
        self.device = device
        self.step_number = 0
        self.optimizer = _optimizer(self.model, training)

    def step(self, batch: Batch) -> StepResult:
        """Learn from one batch.

        Raises:
            ModelError: the model gives logits for other positions than have labels.
            NotFiniteError: the loss or its gradient is NaN or infinite; the weights are then as
                before.
        """
        batch = batch.to(self.device)
        rate = learning_rate(self.training, self.step_number, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        parts = self.learner(batch, Counts.of(batch), self.step_number / self.total_steps)
        self._require_finite("loss", parts.total, batch)
        self.optimizer.zero_grad(set_to_none=True)
        parts.total.backward()
        # Clipping to an infinite norm changes nothing, and tells the norm.
        limit = math.inf if self.training.clip_norm is None else self.training.clip_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self._require_finite("norm of the gradient", norm, batch)
        self.optimizer.step()
        self.step_number += 1
        return StepResult(parts.total.item(), _number(parts.soft), _number(parts.hard), rate)

    def state(self) -> dict[str, Any]:
        """All that training goes on from; tensors, numbers, lists and dicts only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step_number,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_number = int(state["step"])
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda" and state["random_cuda"]:
            torch.cuda.set_rng_state_all([entry.cpu() for entry in state["random_cuda"]])

    def _require_finite(self, name: str, value: Tensor, batch: Batch) -> None:
        if torch.isfinite(value):
            return
        ids = ", ".join(map(str, batch.sample_ids[:_NAMED_IDS]))
        raise NotFiniteError(
            f"step {self.step_number}: the {name} is {value.item()} on the batch of samples "
            f"{ids}, ...; lower training.learning_rate, or look at these samples"
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


def _optimizer(model: nn.Module, training: TrainingOptions) -> torch.optim.Optimizer:
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    optimizer: torch.optim.Optimizer = kinds[training.optimizer](
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
    )
    return optimizer


def _number(value: Tensor | None) -> float | None:
    return None if value is None else value.item()
