"""What a student's inside is compared with its teacher's by.

Each is a sum of what positions or samples add, times their weights: parts of a batch add up to the
whole, and padding adds nothing. The formulas are TextBrewer's (Yang et al. 2020, arXiv 2002.12620;
its `losses.py`), which divides over a whole batch where here each position weighs the same; both
are equal where samples are equally long.

Shape letters: B samples, N positions inside a model, W width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.feature_options import Match, MatchLoss
from tasks.nn.places import Places


def match_loss(
    match: Match, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], places: Places
) -> Tensor:
    """One comparison, without its weight; a number.

    Args:
        match: what is compared.
        student: one or two features [B, N, W], projected to the teacher's width; or maps.
        teacher: as many, of the same shape but for the width of `mmd`.
        places: which positions count, and how much each weighs.
    """
    ours, theirs = (tuple(_wide(entry) for entry in found) for found in (student, teacher))
    if student[0].dim() == 4:
        return _map_loss(match, ours[0], theirs[0], places)
    ours, theirs = (tuple(places.only_real(entry) for entry in found) for found in (ours, theirs))
    if match.options.loss in (MatchLoss.GRAM, MatchLoss.MMD):
        between = gram_loss if match.options.loss is MatchLoss.GRAM else mmd_loss
        return (between((ours[0], ours[-1]), (theirs[0], theirs[-1]), places)).sum()
    between_BN = cosine_loss if match.options.loss is MatchLoss.COSINE else mse_loss
    return (between_BN(ours[0], theirs[0]) * places.weight_BN).sum()


def mse_loss(student_BNW: Tensor, teacher_BNW: Tensor) -> Tensor:
    """The mean squared difference of each position; [B, N]."""
    return (student_BNW - teacher_BNW).square().mean(dim=2)


def cosine_loss(student_BNW: Tensor, teacher_BNW: Tensor) -> Tensor:
    """1 - cosine of each position; [B, N]. That of torch's `cosine_embedding_loss` at target 1."""
    shape = student_BNW.shape[:2]
    ones = student_BNW.new_ones(shape.numel())
    return F.cosine_embedding_loss(
        student_BNW.flatten(0, 1), teacher_BNW.flatten(0, 1), ones, reduction="none"
    ).reshape(shape)


def gram_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], places: Places
) -> Tensor:
    """Of products over positions, W x W for each sample, divided by its positions; [B]."""
    length_B11 = places.length_B[:, None, None]
    ours, theirs = (
        (first.transpose(1, 2) @ second) / length_B11 for first, second in (student, teacher)
    )
    return (ours - theirs).square().mean(dim=(1, 2)) * places.weight_B


def mmd_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], places: Places
) -> Tensor:
    """Of products over the width, N x N for each sample, divided by the width; [B]."""
    ours, theirs = (
        (first @ second.transpose(1, 2)) / first.shape[2] for first, second in (student, teacher)
    )
    # Products with positions that are not real are 0 on both sides.
    summed_B = (ours - theirs).square().sum(dim=(1, 2))
    return summed_B / places.length_B.square() * places.weight_B


def _map_loss(match: Match, ours: Tensor, theirs: Tensor, places: Places) -> Tensor:
    if match.options.heads == "mean":
        ours, theirs = ours.mean(dim=1, keepdim=True), theirs.mean(dim=1, keepdim=True)
    real_B11N = places.real_BN[:, None, None]
    if match.options.loss is MatchLoss.CE:
        row_BHN = map_ce(ours, theirs.masked_fill(~real_B11N, 0.0))
    else:
        squared = (ours - theirs).square().masked_fill(~real_B11N, 0.0)
        row_BHN = squared.sum(dim=3) / places.length_B[:, None, None]
    # A row of padding need not be finite.
    row_BN = row_BHN.mean(dim=1).masked_fill(~places.real_BN, 0.0)
    return (row_BN * places.weight_BN).sum()


def map_ce(student_BHNN: Tensor, teacher_BHNN: Tensor) -> Tensor:
    """The cross-entropy of each row of two maps; [B, H, N]. What the teacher does not see is 0."""
    least = torch.finfo(student_BHNN.dtype).tiny
    log_BHNN = student_BHNN.clamp(min=least).log()
    return -torch.where(teacher_BHNN > 0, teacher_BHNN * log_BHNN, 0.0).sum(dim=3)


def _wide(feature: Tensor) -> Tensor:
    """At least float32: half precision would lose what small differences say."""
    return feature.to(torch.promote_types(feature.dtype, torch.float32))
