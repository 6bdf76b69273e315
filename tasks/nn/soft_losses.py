"""Soft losses, position by position: what is stored of a teacher against a student's full softmax.

Shape letters: P positions, C classes, K kept classes, E entries that are compared.

What touches the student's [P, C] logits is in `tasks.nn.kept_log_probs`; all else here costs
O(P * K). `tail` decides what the entries are:

- `rest`: the kept classes with mass, and all other classes together as one more. Both models'
  entries sum to one. Where nothing is left for the teacher (rest = -inf) but something for the
  student, what becomes of that is each divergence's to say.
- `renormalize`: the kept classes, each model renormalised over them. For `mse` it is the same as
  `ignore`, for renormalising shifts all logits alike.
- `ignore`: the kept classes with the probabilities of the full softmax. These do not sum to one, so
  the sum is no divergence: it may be below 0, and `reverse_kl` and `jsd` may be lowered by moving
  the student's mass to classes that are not kept. It is here to compare with other systems.

Kept classes without mass (a teacher's masks, padding) are among the others. Positions that do not
count cost nothing and have no gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from storage.errors import RecipeError
from tasks.loss_needs import kept_set_misfit
from tasks.loss_options import LossOptions, SoftLoss, Tail
from tasks.nn.batch import Batch
from tasks.nn.divergences import divergence
from tasks.nn.fidelity import draw_weights
from tasks.nn.kept_log_probs import StudentLogProbs
from tasks.nn.softlabels import entry_log_probs
from tasks.nn.temperatures import Scale


def require_soft_labels(batch: Batch, options: LossOptions) -> None:
    """Refuse a soft loss where there is nothing to compare with, or it would be biased over draws.

    Raises:
        RecipeError: the batch lacks what the loss needs.
    """
    if batch.index_PK.shape[1] == 0 or batch.rest_PT is None:
        raise RecipeError("loss.soft_weight: expected 0 where there are no soft labels")
    fault = kept_set_misfit(options.soft, drawn=batch.weight_PK is not None)
    if fault is not None:
        raise RecipeError(f"loss.{fault}")


def soft_losses(
    student: StudentLogProbs, batch: Batch, scale: Scale, options: LossOptions
) -> Tensor:
    """The soft loss times T^2 (Hinton et al. 2015, arXiv 1503.02531), for each position; [P].

    T^2 scales the gradient, not only the printed number.

    Args:
        student: its log-probabilities at `scale.student`.
        batch: what it is compared with.
        scale: the temperatures.
        options: which loss.
    """
    if options.soft is SoftLoss.SAMPLED:
        found_P = _sampled(student, batch, scale)
    else:
        found_P = divergence(*_entries(student, batch, scale, options.tail), options)
    return torch.where(batch.mask_P, found_P * scale.squared, 0.0)


def _entries(
    student: StudentLogProbs, batch: Batch, scale: Scale, tail: Tail
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of what is compared, of teacher and student; both -inf where nothing is."""
    dtype = student.kept_PK.dtype  # a student in half precision must not make its teacher coarse
    p_PK, p_rest_P = entry_log_probs(
        batch.logit_PK.to(dtype), scale.rest_P.to(dtype), batch.temperature, scale.teacher
    )
    absent_PK = ~batch.present_PK
    p_PK, q_PK = (
        _where_counting(values_PK, batch.mask_P[:, None]).masked_fill(absent_PK, -math.inf)
        for values_PK in (p_PK, student.kept_PK)
    )
    if tail is Tail.REST:
        p_rest_P, q_rest_P = (
            _where_counting(values_P, batch.mask_P) for values_P in (p_rest_P, student.rest_P)
        )
        p_PE = torch.cat([p_PK, p_rest_P[:, None]], dim=1)
        return p_PE, torch.cat([q_PK, q_rest_P[:, None]], dim=1)
    if tail is Tail.RENORMALIZE:
        p_PK = p_PK - torch.logsumexp(p_PK, dim=1, keepdim=True)
        q_PK = q_PK - torch.logsumexp(q_PK, dim=1, keepdim=True)
    return p_PK, q_PK


def _where_counting(log_p: Tensor, mask: Tensor) -> Tensor:
    """0 where positions do not count: they may hold anything, and must not make anything NaN."""
    return log_p.masked_fill(~mask, 0.0)


def _sampled(student: StudentLogProbs, batch: Batch, scale: Scale) -> Tensor:
    """The cross-entropy over the draws; [P].

    Each weighs what makes its expectation that of the full softmax (arXiv 2503.16870); there is no
    rest, and `tail` has no effect.
    """
    dtype = student.kept_PK.dtype
    logit_PK, stored = batch.logit_PK.to(dtype), batch.temperature
    assert batch.weight_PK is not None
    assert batch.drawn_at is not None
    drawn_rest_P = batch.rest_at(batch.drawn_at).to(dtype)
    log_p_PK, _ = entry_log_probs(logit_PK, scale.rest_P.to(dtype), stored, scale.teacher)
    log_drawn_PK, _ = entry_log_probs(logit_PK, drawn_rest_P, stored, batch.drawn_at)
    share_PK = batch.weight_PK.to(dtype).masked_fill(~batch.mask_P[:, None], 0.0)
    weight_PK = draw_weights(log_p_PK, log_drawn_PK, share_PK)
    return -torch.where(weight_PK > 0, weight_PK * student.kept_PK, 0.0).sum(dim=1)
