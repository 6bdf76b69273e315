"""How well a model does on a split: while it is fitted, and what a fitted teacher's card says.

Shape letters: P positions, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from storage.options import AnyTemperature
from storage.schema import NO_LABEL
from tasks.loss_options import LossOptions, SoftLoss
from tasks.loss_schedules import CwsmTemperature, FlswTemperature
from tasks.nn.batch import Batch, by_position
from tasks.nn.losses import distillation_loss
from tasks.nn.trainer import Trainer
from tasks.sources import Source
from tasks.stream import Stream


def validate(trainer: Trainer, source: Source, loss: LossOptions) -> dict[str, float]:
    """The loss and, where there are hard labels, the accuracy on a split; the same on all ranks.

    Each rank takes its part of the split. The model's weights are left as they were. Those of the
    loss and its temperature are those of the end of training, so that losses can be compared over
    time.

    Args:
        trainer: of the model.
        source: the split.
        loss: which of its predictions; what lies inside the model is not compared.
    """
    ranks = trainer.ranks
    stream = Stream(
        source, trainer.training.batch_size, shuffle=False, rank=ranks.rank, world=ranks.world
    )
    sums = torch.zeros(4, dtype=torch.float64, device=trainer.device)
    trainer.learner.eval()
    with torch.no_grad():
        for batch in stream:
            for part in trainer.gradients.parts(batch.to(trainer.device)):
                sums += _sums(trainer, part, loss)
    trainer.learner.train()
    total, positions, correct, labelled = ranks.sum(sums).tolist()
    figures = {"validation_loss": total / max(positions, 1)}
    return figures | ({"validation_accuracy": correct / labelled} if labelled else {})


def _sums(trainer: Trainer, batch: Batch, loss: LossOptions) -> torch.Tensor:
    """The sum of the loss, positions that count, best classes that are right, hard labels."""
    with trainer.precision.autocast():
        logit_PC = by_position(trainer.model(*batch.inputs))
        at_end = on_kept_set(loss, batch.temperatures)
        total = distillation_loss(logit_PC, batch, at_end, done=1.0).total
    counts_P = batch.mask_P & (batch.label_P >= 0)
    correct = ((logit_PC.argmax(dim=1) == batch.label_P) & counts_P).sum()
    summed = total.double() * batch.num_positions
    return torch.stack([summed, batch.mask_P.sum(), correct, counts_P.sum()])


def on_kept_set(loss: LossOptions, stored: Sequence[AnyTemperature]) -> LossOptions:
    """The loss where labels are a true kept set, and perhaps not every class is kept.

    Draws have no loss there, their limit has. In place of temperatures that follow the student it
    is their base, or T where that is not stored.
    """
    changed: dict[str, Any] = {}
    if loss.soft is SoftLoss.SAMPLED:
        changed["soft"] = SoftLoss.FORWARD_KL
    if isinstance(loss.temperature, FlswTemperature | CwsmTemperature):
        base = loss.temperature.base
        changed["temperature"] = base if base in stored else None
    return loss.model_copy(update=changed)


@torch.inference_mode()
def hard_figures(
    model: nn.Module, source: Source, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Mean negative log-likelihood in nats, accuracy, and how many positions these are of.

    The likelihood is the model's own, without the smoothing that it may have been fitted with; for
    a language model it is that of each token, and the accuracy is that of the next one.

    Args:
        model: it is left on `device`, in evaluation mode.
        source: a split.
        batch_size: samples of a batch.
        device: where to run.
    """
    model = model.to(device).eval()
    nll = correct = 0.0
    positions = 0
    for batch in Stream(source, batch_size, shuffle=False):
        moved = batch.to(device)
        label_P = moved.label_P.masked_fill(~moved.mask_P, NO_LABEL)
        logit_PC = by_position(model(*moved.inputs)).float()
        nll += F.cross_entropy(logit_PC, label_P, ignore_index=NO_LABEL, reduction="sum").item()
        correct += (logit_PC.argmax(dim=1) == label_P).sum().item()
        positions += int((label_P != NO_LABEL).sum())
    count = max(positions, 1)
    return {"nll": nll / count, "accuracy": correct / count, "positions": positions}
