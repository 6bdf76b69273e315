"""Losses over the kept classes and the rest, against the student's full softmax.

Shape letters: P positions, C classes, K kept classes.

Losses are ordinary expressions of what `tasks.nn.kept_log_probs` gives. Times T^2 (Hinton et al.
2015, arXiv 1503.02531): it scales the gradient, not only the printed number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from storage.errors import RecipeError
from storage.options import temperature_names
from tasks.loss_options import LossOptions, SoftLoss, Tail, kept_set_fault
from tasks.nn.batch import Batch
from tasks.nn.fidelity import draw_weights
from tasks.nn.kept_log_probs import kept_log_probs
from tasks.nn.softlabels import entry_log_probs

LOWEST = torch.finfo(torch.float32).min
NO_LABEL = -100


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
    logit_PC: Tensor, batch: Batch, options: LossOptions, count: int | None = None
) -> LossParts:
    """The loss of a batch: soft and hard, mixed, divided by the number of counting positions.

    Args:
        logit_PC: the student's.
        batch: what it is compared with.
        options: which losses, and how they are mixed.
        count: the positions to divide by, where the batch is a part of a larger one; by default
            those of the batch.

    Raises:
        RecipeError: the batch lacks what the loss needs (a temperature, soft or hard labels).
    """
    count = max(batch.num_positions if count is None else count, 1)
    soft = hard = None
    total = logit_PC.new_zeros(())
    if options.soft_weight > 0:
        soft = _masked_sum(soft_loss(logit_PC, batch, options), batch.mask_P) / count
        total = total + options.soft_weight * soft
    if options.hard_share > 0:
        hard = _masked_sum(hard_loss(logit_PC, batch.label_P, options), batch.mask_P) / count
        total = total + options.hard_share * hard
    return LossParts(total, soft, hard)


def soft_loss(logit_PC: Tensor, batch: Batch, options: LossOptions) -> Tensor:
    """The soft loss times T^2, for each position; [P].

    `forward_kl` is KL(teacher || student) over kept classes and rest. `sampled` is the
    cross-entropy over the draws, each weighed by what makes its expectation the full one
    (arXiv 2503.16870).

    Raises:
        RecipeError: the labels lack what the loss needs, or it would be biased over draws.
    """
    drawn = batch.weight_PK is not None
    if drawn != (options.soft is SoftLoss.SAMPLED) and batch.index_PK.shape[1] > 0:
        raise RecipeError(f"loss.soft: {kept_set_fault(drawn=drawn)}")
    if drawn:
        return sampled_loss(logit_PC, batch, options)
    at, rest_P = _stored_rest(batch, options)
    # A student in half precision must not make its teacher coarse.
    dtype = torch.promote_types(logit_PC.dtype, torch.float32)
    teacher_PK, teacher_rest_P = entry_log_probs(
        batch.logit_PK.to(dtype), rest_P.to(dtype), batch.temperature, at
    )
    # Positions that do not count may hold nothing at all: they get no mass, hence no gradient.
    teacher_PK = teacher_PK.masked_fill(~batch.mask_P[:, None], -math.inf)
    teacher_rest_P = teacher_rest_P.masked_fill(~batch.mask_P, -math.inf)
    present_PK = batch.present_PK
    student_PK, student_rest_P = kept_log_probs(logit_PC, batch.index_PK, present_PK, at)
    if options.tail is Tail.RENORMALIZE:
        teacher_PK = teacher_PK - torch.logsumexp(teacher_PK, dim=1, keepdim=True).clamp(min=LOWEST)
        student_PK = student_PK - torch.logsumexp(
            student_PK.masked_fill(~present_PK, -math.inf), dim=1, keepdim=True
        )
    kl_P = forward_kl(teacher_PK, student_PK).sum(dim=1)
    if options.tail is Tail.REST:
        kl_P = kl_P + forward_kl(teacher_rest_P, student_rest_P)
    return kl_P * at**2


def sampled_loss(logit_PC: Tensor, batch: Batch, options: LossOptions) -> Tensor:
    """T^2 times the cross-entropy over the draws; [P]. Its expectation is the full one's."""
    at, rest_P = _stored_rest(batch, options)
    dtype = torch.promote_types(logit_PC.dtype, torch.float32)
    logit_PK, stored = batch.logit_PK.to(dtype), batch.temperatures
    assert batch.weight_PK is not None
    assert batch.rest_PT is not None
    assert batch.drawn_at is not None
    drawn_rest_P = batch.rest_PT[:, stored.index(batch.drawn_at)]
    log_p_PK, _ = entry_log_probs(logit_PK, rest_P.to(dtype), batch.temperature, at)
    log_drawn_PK, _ = entry_log_probs(
        logit_PK, drawn_rest_P.to(dtype), batch.temperature, batch.drawn_at
    )
    share_PK = batch.weight_PK.to(dtype).masked_fill(~batch.mask_P[:, None], 0.0)
    weight_PK = draw_weights(log_p_PK, log_drawn_PK, share_PK)
    student_PK, _ = kept_log_probs(logit_PC, batch.index_PK, batch.present_PK, at)
    return -torch.where(weight_PK > 0, weight_PK * student_PK, 0.0).sum(dim=1) * at**2


def hard_loss(logit_PC: Tensor, label_P: Tensor, options: LossOptions) -> Tensor:
    """Cross-entropy with the hard label for each position, 0 where there is none; [P]."""
    return F.cross_entropy(
        logit_PC,
        label_P,
        ignore_index=NO_LABEL,
        label_smoothing=options.label_smoothing,
        reduction="none",
    )


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """P (log p - log q), and exactly 0 with gradient 0 where p is 0."""
    has_mass = ~torch.isneginf(teacher)
    safe_teacher = torch.where(has_mass, teacher, 0.0)
    safe_student = torch.where(has_mass, student, 0.0)
    return torch.where(has_mass, safe_teacher.exp() * (safe_teacher - safe_student), 0.0)


def _stored_rest(batch: Batch, options: LossOptions) -> tuple[float, Tensor]:
    """The temperature of the loss, and what is stored of the classes that are not kept."""
    if batch.index_PK.shape[1] == 0 or batch.rest_PT is None:
        raise RecipeError("loss.soft_weight: expected 0 where there are no soft labels")
    at = batch.temperature if options.temperature is None else options.temperature
    if at not in batch.temperatures:
        stored = ", ".join(temperature_names(batch.temperatures))
        raise RecipeError(
            f"loss.temperature: expected one of the stored temperatures {stored}, got {at:g}; "
            "add it to labels.temperatures to have it stored"
        )
    return at, batch.rest_PT[:, batch.temperatures.index(at)]


def _masked_sum(loss_P: Tensor, mask_P: Tensor) -> Tensor:
    dtype = torch.promote_types(loss_P.dtype, torch.float32)
    return torch.where(mask_P, loss_P, 0.0).sum(dtype=dtype)
