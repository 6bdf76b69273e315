"""From what was read of the logits to log-probabilities, and from their gradients to slopes.

All of it is O(P * K). With p the softmax of z / T, q_j = exp(z_j / T - lse of the others), G the
sum of all incoming gradients and g_rest that of the rest: the gradient of z_j is (g_j - G p_j) / T
for a kept class and q_j (g_rest - G p_rest) / T for another. No quotient of small numbers is
formed. The hard loss of label y, smoothed by s, adds h (p_j - s / C) and h (s - 1) at y, with p at
temperature 1 and h its incoming gradient.

The log-probabilities depend on z / T only, and not on what is added to all of a position's z: so
the gradient of T is -1 / T times the sum over all classes of (z_j - u) times that of z_j.

Shape letters: P positions, C classes, K kept classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.nn.row_passes import NO_LABEL, Asked, Slopes, Sums, by_row


@dataclass(frozen=True)
class Totals:
    """What is kept until the gradients come.

    Attributes:
        sums: what was read.
        total_P: logsumexp of all z / T.
        total_one_P: logsumexp of all z; read where labels are asked for.
        num_classes: C.
    """

    sums: Sums
    total_P: Tensor
    total_one_P: Tensor
    num_classes: int

    def log_probs(self, asked: Asked) -> tuple[Tensor, Tensor]:
        """Of the kept classes [P, K], and of all others together [P]."""
        others_P = self.sums.largest_P / asked.at + self.sums.mass_P.log()
        kept_PK = self.sums.kept_PK / by_row(asked.at)
        return kept_PK - self.total_P[:, None], others_P - self.total_P


def outputs(
    sums: Sums, present_PK: Tensor, asked: Asked, num_classes: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Totals]:
    """Log-probabilities of kept classes and rest, and the hard loss (zeros without labels)."""
    distinct_PK = sums.kept_PK.masked_fill(~present_PK, -math.inf)
    others_P = sums.largest_P / asked.at + sums.mass_P.log()
    total_P = _with_kept(distinct_PK / by_row(asked.at), others_P)
    hard_P, total_one_P = torch.zeros_like(total_P), total_P
    if asked.label_P is not None:
        total_one_P = _with_kept(distinct_PK, sums.largest_P + sums.mass_one_P.log())
        hard_P = total_one_P - (1 - asked.smoothing) * sums.label_P
        if asked.smoothing > 0:
            hard_P -= asked.smoothing / num_classes * sums.sum_P
        hard_P = torch.where(asked.label_P == NO_LABEL, 0.0, hard_P)
    totals = Totals(sums, total_P, total_one_P, num_classes)
    return (*totals.log_probs(asked), hard_P), totals


def slopes(
    totals: Totals, present_PK: Tensor, asked: Asked, grads: tuple[Tensor, ...]
) -> tuple[Slopes, Tensor | None]:
    """What the gradient of the logits is made of, and the gradient of the temperature.

    Args:
        totals: from `outputs`.
        present_PK: which entries are kept.
        asked: what was asked.
        grads: the gradients of what `outputs` gave.
    """
    grad_PK, grad_rest_P, grad_hard_P = grads
    sums = totals.sums
    kept_PK, rest_P = totals.log_probs(asked)
    sum_P = grad_PK.sum(dim=1) + grad_rest_P
    own_PK = _passed_on(grad_PK, present_PK) - kept_PK.exp() * sum_P[:, None]
    others_P = grad_rest_P - sum_P * rest_P.exp()
    # Where all others are -inf nothing has a gradient there.
    soft_P = torch.where(sums.mass_P > 0, others_P / sums.mass_P, 0.0) / asked.at
    at_slope_P = None
    if asked.moment:
        at_slope_P = -_moment(own_PK, present_PK, sums, soft_P * asked.at) / asked.at**2
    own_PK = own_PK / by_row(asked.at)
    hard_P = flat_P = label_P = torch.zeros_like(soft_P)
    if asked.label_P is not None:
        slope_P = torch.where(asked.label_P == NO_LABEL, 0.0, grad_hard_P)
        hard_P = slope_P * (sums.largest_P - totals.total_one_P).exp()
        flat_P = slope_P * (asked.smoothing / totals.num_classes)
        label_P = -(1 - asked.smoothing) * slope_P
        one_PK = (sums.kept_PK - totals.total_one_P[:, None]).exp()
        own_PK = own_PK + slope_P[:, None] * one_PK - flat_P[:, None]
    own_PK = torch.where(present_PK, own_PK, own_PK[:, :1])
    return Slopes(sums.largest_P, soft_P, hard_P, flat_P, own_PK, label_P), at_slope_P


def _passed_on(grad_PK: Tensor, present_PK: Tensor) -> Tensor:
    """Entries that repeat the first class pass their gradient on to it."""
    own_PK = torch.where(present_PK, grad_PK, 0.0)
    own_PK[:, :1] += torch.where(present_PK, 0.0, grad_PK).sum(dim=1, keepdim=True)
    return own_PK


def _moment(own_PK: Tensor, present_PK: Tensor, sums: Sums, soft_P: Tensor) -> Tensor:
    """T times the sum over all classes of (z_j - u) times the gradient of z_j."""
    distance_PK = sums.kept_PK - sums.largest_P[:, None]
    distance_PK = torch.where(present_PK & ~torch.isneginf(distance_PK), distance_PK, 0.0)
    return (own_PK * distance_PK).sum(dim=1) + soft_P * sums.moment_P


def _with_kept(distinct_PK: Tensor, others_P: Tensor) -> Tensor:
    if distinct_PK.shape[1] == 0:
        return others_P
    return torch.logaddexp(torch.logsumexp(distinct_PK, dim=1), others_P)
