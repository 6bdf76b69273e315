"""Losses over the kept classes and the rest, against the student's full softmax.

Shape letters: P positions, C classes, K kept classes.

`kept_log_probs` is the only operation that touches the student's [P, C] logits: it returns the
log-probabilities of the kept classes and of all others together, and its gradient is written by
hand. Memory beyond the logits and their gradient is O(P * K) and one block of rows. Losses are
ordinary expressions of its results. Times T^2 (Hinton et al. 2015, arXiv 1503.02531): it scales the
gradient, not only the printed number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from storage.errors import RecipeError
from tasks.nn.batch import Batch
from tasks.nn.fidelity import draw_weights
from tasks.nn.softlabels import entry_log_probs
from tasks.options import LossOptions, SoftLoss, Tail, kept_set_fault

_BLOCK_ELEMENTS = 1 << 20
LOWEST = torch.finfo(torch.float32).min
NO_LABEL = -100


@dataclass(frozen=True)
class LossParts:
    """Losses of one batch: means over the positions that count, in nats.

    Attributes:
        total: what is differentiated.
        soft: the soft loss times T^2, or None where it has no weight.
        hard: the hard loss, or None where it has no weight.
    """

    total: Tensor
    soft: Tensor | None
    hard: Tensor | None


def distillation_loss(logit_PC: Tensor, batch: Batch, options: LossOptions) -> LossParts:
    """The loss of a batch: soft and hard, mixed, divided by the number of counting positions.

    Raises:
        RecipeError: the batch lacks what the loss needs (a temperature, soft or hard labels).
    """
    count = max(batch.num_positions, 1)
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
        batch.logit_PK.to(dtype), rest_P.to(dtype), batch.temperatures[0], at
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
    log_p_PK, _ = entry_log_probs(logit_PK, rest_P.to(dtype), stored[0], at)
    log_drawn_PK, _ = entry_log_probs(logit_PK, drawn_rest_P.to(dtype), stored[0], batch.drawn_at)
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


def kept_log_probs(
    logit_PC: Tensor, index_PK: Tensor, present_PK: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the kept classes and of all others together.

    Args:
        logit_PC: the student's logits.
        index_PK: class ids; the first of each row is always present.
        present_PK: which entries are kept; the others are padding, or classes without mass.
        temperature: the student's logits are divided by it.

    Returns:
        [P, K] and [P], at least float32. Entries that are not present repeat the first.
    """
    result = _KeptLogProbs.apply(  # type: ignore[no-untyped-call]
        logit_PC, index_PK, present_PK, temperature
    )
    return cast("tuple[Tensor, Tensor]", result)


def _stored_rest(batch: Batch, options: LossOptions) -> tuple[float, Tensor]:
    """The temperature of the loss, and what is stored of the classes that are not kept."""
    if batch.index_PK.shape[1] == 0 or batch.rest_PT is None:
        raise RecipeError("loss.soft_weight: expected 0 where there are no soft labels")
    at = batch.temperatures[0] if options.temperature is None else options.temperature
    if at not in batch.temperatures:
        stored = ", ".join(f"{value:g}" for value in batch.temperatures)
        raise RecipeError(
            f"loss.temperature: expected one of the stored temperatures {stored}, got {at:g}; "
            "add it to labels.temperatures to have it stored"
        )
    return at, batch.rest_PT[:, batch.temperatures.index(at)]


def _masked_sum(loss_P: Tensor, mask_P: Tensor) -> Tensor:
    dtype = torch.promote_types(loss_P.dtype, torch.float32)
    return torch.where(mask_P, loss_P, 0.0).sum(dtype=dtype)


class _KeptLogProbs(torch.autograd.Function):
    """log p of the kept classes, and the logsumexp of log p over all others.

    With p the softmax of z / T, q_j = exp(z_j / T - lse of the others), G the sum of all incoming
    gradients and g_rest that of the rest: the gradient of z_j is (g_j - G p_j) / T for a kept class
    and q_j (g_rest - G p_rest) / T for another. No quotient of small numbers is formed.
    """

    @staticmethod
    def forward(
        ctx: Any, logit_PC: Tensor, index_PK: Tensor, present_PK: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        index_PK = torch.where(present_PK, index_PK, index_PK[:, :1])
        dtype = torch.promote_types(logit_PC.dtype, torch.float32)
        kept_PK = logit_PC.gather(1, index_PK).to(dtype) / temperature
        others_P = torch.empty(len(logit_PC), dtype=dtype, device=logit_PC.device)
        for rows in _row_blocks(logit_PC):
            scaled = logit_PC[rows].to(dtype) / temperature
            scaled.scatter_(1, index_PK[rows], -math.inf)
            others_P[rows] = torch.logsumexp(scaled, dim=1)
        distinct_PK = kept_PK.masked_fill(~present_PK, -math.inf)
        total_P = torch.logaddexp(torch.logsumexp(distinct_PK, dim=1), others_P)
        ctx.save_for_backward(logit_PC, index_PK, present_PK, others_P, total_P)
        ctx.temperature = temperature
        return kept_PK - total_P[:, None], others_P - total_P

    @staticmethod
    def backward(ctx: Any, grad_PK: Tensor, grad_rest_P: Tensor) -> tuple[Tensor, None, None, None]:
        logit_PC, index_PK, present_PK, others_P, total_P = ctx.saved_tensors
        temperature = ctx.temperature
        # Entries that repeat the first class pass their gradient on to it.
        extra_P = torch.where(present_PK, 0.0, grad_PK).sum(dim=1)
        sum_P = grad_PK.sum(dim=1) + grad_rest_P
        scale_P = grad_rest_P - sum_P * (others_P - total_P).exp()
        safe_P = torch.where(torch.isneginf(others_P), 0.0, others_P)
        grad_PC = torch.empty_like(logit_PC)
        for rows in _row_blocks(logit_PC):
            scaled = logit_PC[rows].to(others_P.dtype) / temperature
            other = (scaled - safe_P[rows, None]).exp_() * scale_P[rows, None]
            kept = scaled.gather(1, index_PK[rows]) - total_P[rows, None]
            own = torch.where(present_PK[rows], grad_PK[rows], 0.0)
            own[:, 0] += extra_P[rows]
            own -= kept.exp() * sum_P[rows, None]
            own = torch.where(present_PK[rows], own, own[:, :1])
            grad_PC[rows] = (other.scatter_(1, index_PK[rows], own) / temperature).to(grad_PC.dtype)
        return grad_PC, None, None, None


def _row_blocks(logit_PC: Tensor) -> list[slice]:
    size = max(1, _BLOCK_ELEMENTS // logit_PC.shape[1])
    return [slice(start, start + size) for start in range(0, len(logit_PC), size)]
