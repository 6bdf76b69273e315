"""At what temperature teacher and student are compared, position by position.

Shape letters: P positions, C classes, K kept classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from storage.errors import RecipeError
from storage.options import STD
from tasks.loss_needs import any_temperature_misfit, temperature_misfit
from tasks.loss_options import LossOptions
from tasks.loss_schedules import CwsmTemperature, FlswTemperature
from tasks.nn.batch import Batch
from tasks.nn.kept_log_probs import Logits
from tasks.nn.row_passes import computed_in
from tasks.nn.student_deviation import student_deviation

_LEAST_SHARE = 0.1
_NORM_EPS = 1e-4
_MASS_EPS = 1e-3


@dataclass(frozen=True)
class Scale:
    """What logits are divided by.

    Attributes:
        teacher: one number, or [P].
        student: one number, or [P], perhaps with a gradient.
        rest_P: of the teacher there: logsumexp of what is not kept.
        squared: T^2, by which the loss is multiplied so that its gradient is of the same size at
            any temperature; one number, or [P].
    """

    teacher: float | Tensor
    student: float | Tensor
    rest_P: Tensor
    squared: float | Tensor


def scale_of(logits: Logits, batch: Batch, options: LossOptions, done: float) -> Scale:
    """The temperatures of a batch.

    With `std` each model has its own: the deviation of its logits (Sun et al. 2024, "Logit
    Standardization", arXiv 2403.01427, at their base temperature 1). The student's is learnt
    through. The factor there is the base temperature squared, as in the paper's algorithm 1, so 1:
    the deviation is no choice of a scale but part of the function.

    Raises:
        RecipeError: the temperature is not stored, or needs every class.
    """
    at = options.temperature_at(done)
    if isinstance(at, FlswTemperature | CwsmTemperature):
        return _varying(logits, batch, at)
    at = batch.temperature if at is None else at
    fault = temperature_misfit(at, batch.temperatures)
    if fault is not None:
        raise RecipeError(f"loss.{fault}")
    if at == STD:
        return Scale(batch.at(STD), student_deviation(logits), batch.rest_at(STD), 1.0)
    return Scale(at, at, batch.rest_at(at), at**2)


def _varying(logits: Logits, batch: Batch, at: FlswTemperature | CwsmTemperature) -> Scale:
    every_class = batch.index_PK.shape[1] >= logits.shape[1]
    fault = any_temperature_misfit(at, every_class=every_class)
    if fault is not None:
        raise RecipeError(f"loss.{fault}")
    with torch.no_grad():
        logit_PC = _made(logits)
        if isinstance(at, FlswTemperature):
            weight_P = flsw_weight(logit_PC, batch, at.gamma)
        else:
            weight_P = cwsm_weight(logit_PC)
        at_P = spread(weight_P, batch.mask_P, at.base, at.beta)
    nothing_P = torch.full_like(at_P, -torch.inf)
    return Scale(at_P, at_P, nothing_P, at_P**2)


def _made(logits: Logits) -> Tensor:
    """[P, C], for what needs every class anyway."""
    if isinstance(logits, Tensor):
        return logits
    return F.linear(logits.hidden_PW, logits.weight_CW, logits.bias_C)


def spread(weight_P: Tensor, mask_P: Tensor, base: float, beta: float) -> Tensor:
    """A lower temperature where the weight is larger: base + beta (mean weight - weight); [P].

    The mean is over the counting positions that are here: of one process and micro-batch, as in
    TextBrewer. No temperature falls below a tenth of `base`, where TextBrewer's may become
    negative.
    """
    mean = torch.where(mask_P, weight_P, 0.0).sum() / mask_P.sum().clamp(min=1)
    return (base + beta * (mean - weight_P)).clamp(min=_LEAST_SHARE * base)


def flsw_weight(logit_PC: Tensor, batch: Batch, gamma: float) -> Tensor:
    """(1 - cosine)^gamma of the logits of student and teacher; [P], without gradient.

    TextBrewer's `flsw_temperature_scheduler` (textbrewer/schedulers.py), adapted there from Wen et
    al., arXiv 1911.07471. There the cosine is of logits as they are; here their mean is taken off
    first, since a teacher's stored logits are known up to a constant, which softmax does not see.
    Classes that the teacher masks take no part.
    """
    dtype = computed_in(logit_PC.dtype)
    student_PK = logit_PC.gather(1, batch.index_PK).to(dtype)
    there_PK = ~(torch.isneginf(batch.logit_PK) | torch.isneginf(student_PK))
    teacher_PK = batch.logit_PK.to(dtype) * batch.temperature
    teacher_PK, student_PK = _unit(teacher_PK, there_PK), _unit(student_PK, there_PK)
    distance_P = 1 - (teacher_PK * student_PK).sum(dim=1)
    return torch.pow(distance_P.clamp(min=0.0), gamma)


def cwsm_weight(logit_PC: Tensor) -> Tensor:
    """1 / (the student's largest probability + 0.001); [P], without gradient.

    TextBrewer's `cwsm_temperature_scheduler` (textbrewer/schedulers.py).
    """
    dtype = computed_in(logit_PC.dtype)
    best_P = torch.softmax(logit_PC.to(dtype), dim=1).amax(dim=1)
    return 1 / (best_P + _MASS_EPS)


def _unit(logit_PK: Tensor, there_PK: Tensor) -> Tensor:
    """Centred rows of length 1, 0 where nothing is there."""
    logit_PK = torch.where(there_PK, logit_PK, 0.0)
    count_P1 = there_PK.sum(dim=1, keepdim=True).clamp(min=1)
    centred_PK = torch.where(there_PK, logit_PK - logit_PK.sum(dim=1, keepdim=True) / count_P1, 0.0)
    norm_P1: Tensor = torch.linalg.vector_norm(centred_PK, dim=1, keepdim=True)
    return centred_PK / (norm_P1 + _NORM_EPS)
