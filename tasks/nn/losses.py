"""The loss of a batch: soft and hard, mixed.

Shape letters: P positions, C classes, K kept classes.

Losses are ordinary expressions of what `tasks.nn.kept_log_probs` gives: `tasks.nn.soft_losses` says
which.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.loss_options import LossOptions
from tasks.nn.batch import Batch
from tasks.nn.kept_log_probs import (
    Logits,
    hard_log_probs,
    student_and_hard_log_probs,
    student_log_probs,
)
from tasks.nn.soft_losses import require_soft_labels, soft_losses
from tasks.nn.temperatures import scale_of


@dataclass(frozen=True)
class LossParts:
    """Losses of one batch: means over the positions that count, in nats.

    Attributes:
        total: what is differentiated.
        soft: the soft loss times T^2, or None where it has no weight.
        hard: the hard loss, or None where it has no weight.
        matched: what else is compared with the teacher, by name, without its weight.
    """

    total: Tensor
    soft: Tensor | None
    hard: Tensor | None
    matched: dict[str, Tensor] = field(default_factory=dict)


def distillation_loss(
    logits: Logits,
    batch: Batch,
    options: LossOptions,
    count: int | None = None,
    done: float = 0.0,
) -> LossParts:
    """The loss of a batch: soft and hard, mixed, divided by the number of counting positions.

    Args:
        logits: the student's, [P, C].
        batch: what it is compared with.
        options: which losses, and how they are mixed.
        count: the positions to divide by, where the batch is a part of a larger one; by default
            those of the batch.
        done: the share of training that is over, from 0 to 1, where weights or temperature change.

    Raises:
        RecipeError: the batch lacks what the loss needs (a temperature, soft or hard labels).
    """
    count = max(batch.num_positions if count is None else count, 1)
    soft_weight, hard_weight = options.weights(done)
    soft_P, hard_P = _by_position(
        logits, batch, options, done, soft=soft_weight > 0, hard=hard_weight > 0
    )
    total = logits.new_zeros(())
    soft = None if soft_P is None else _masked_sum(soft_P, batch.mask_P) / count
    hard = None if hard_P is None else _masked_sum(hard_P, batch.mask_P) / count
    if soft is not None:
        total = total + soft_weight * soft
    if hard is not None:
        total = total + hard_weight * hard
    return LossParts(total, soft, hard)


def soft_loss(logits: Logits, batch: Batch, options: LossOptions, done: float = 0.0) -> Tensor:
    """The soft loss times T^2, for each position, 0 where it does not count; [P].

    Raises:
        RecipeError: the labels lack what the loss needs, or it would be biased over draws.
    """
    soft_P, _ = _by_position(logits, batch, options, done, soft=True, hard=False)
    assert soft_P is not None
    return soft_P


def _by_position(
    logits: Logits, batch: Batch, options: LossOptions, done: float, *, soft: bool, hard: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Soft and hard loss of each position, those that are wanted, in one pass over the logits."""
    label_P, smoothing = batch.label_P, options.label_smoothing
    if not soft:
        return None, hard_log_probs(logits, label_P, smoothing) if hard else None
    require_soft_labels(batch, options)
    scale = scale_of(logits, batch, options, done)
    kept = (logits, batch.index_PK, batch.present_PK, scale.student)
    if not hard:
        return soft_losses(student_log_probs(*kept), batch, scale, options), None
    student, hard_P = student_and_hard_log_probs(*kept, label_P, smoothing)
    return soft_losses(student, batch, scale, options), hard_P


def _masked_sum(loss_P: Tensor, mask_P: Tensor) -> Tensor:
    dtype = torch.promote_types(loss_P.dtype, torch.float32)
    return torch.where(mask_P, loss_P, 0.0).sum(dtype=dtype)
