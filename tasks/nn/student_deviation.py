"""The deviation of a student's own logits, which it learns through: its temperature at `std`.

Its gradient is written by hand, so that no other matrix of positions x classes is made; of logits
that are not made yet it follows from the output layer's covariance, and none is made at all.

Shape letters: P positions, C classes, R rows of a block, W the width of the output layer's input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from tasks.nn.kept_log_probs import Logits
from tasks.nn.projected import Projected
from tasks.nn.row_passes import computed_in
from tasks.nn.threads import on_row_groups

LEAST = 1e-3
"""What is taken for the deviation where it is smaller, as of a student that has learnt nothing yet:
then it is no function of the logits."""
_CACHED_ELEMENTS = 1 << 18


def student_deviation(logits: Logits) -> Tensor:
    """The root of the mean squared distance from the mean, over the logits above -inf; [P].

    At least float32, and at least `LEAST`.
    """
    if isinstance(logits, Projected):
        return _variance(logits).clamp(min=LEAST**2).sqrt()
    found_P = _Deviation.apply(logits)  # type: ignore[no-untyped-call]
    return cast("Tensor", found_P).clamp(min=LEAST)


def _variance(logits: Projected) -> Tensor:
    """With centred weights W and bias b: (h W^T W h + 2 h W^T b + b^2) / C; O(C W^2 + P W^2)."""
    dtype = computed_in(logits.dtype)
    count = len(logits.weight_CW)
    with torch.autocast(logits.device.type, enabled=False):
        hidden_PW, weight_CW = logits.hidden_PW.to(dtype), logits.weight_CW.to(dtype)
        weight_CW = weight_CW - weight_CW.mean(dim=0)
        sum_P = ((hidden_PW @ (weight_CW.T @ weight_CW)) * hidden_PW).sum(dim=1)
        if logits.bias_C is not None:
            bias_C = logits.bias_C.to(dtype)
            bias_C = bias_C - bias_C.mean()
            sum_P = sum_P + 2 * (hidden_PW @ (weight_CW.T @ bias_C)) + bias_C.square().sum()
    return sum_P / count


class _Deviation(torch.autograd.Function):
    """The gradient of z_j is (z_j - mean) / (count deviation), 0 where the deviation is 0."""

    @staticmethod
    def forward(ctx: Any, logit_PC: Tensor) -> Tensor:
        dtype = computed_in(logit_PC.dtype)
        found_P = torch.empty(len(logit_PC), dtype=dtype, device=logit_PC.device)

        def work(rows: slice, scratch_RC: Tensor) -> None:
            count_R = _centre(logit_PC[rows], scratch_RC)
            found_P[rows] = torch.linalg.vector_norm(scratch_RC, dim=1) / count_R.sqrt()

        _by_rows(work, logit_PC, dtype)
        ctx.save_for_backward(logit_PC, found_P)
        return found_P

    @staticmethod
    def backward(ctx: Any, grad_P: Tensor) -> Tensor:
        logit_PC, found_P = ctx.saved_tensors
        slope_P = torch.where(found_P > 0, grad_P / found_P, 0.0)
        grad_PC = torch.empty_like(logit_PC)

        def work(rows: slice, scratch_RC: Tensor) -> None:
            count_R = _centre(logit_PC[rows], scratch_RC)
            torch.mul(scratch_RC, (slope_P[rows] / count_R)[:, None], out=grad_PC[rows])

        _by_rows(work, logit_PC, found_P.dtype)
        return grad_PC


def _centre(logit_RC: Tensor, centred_RC: Tensor) -> Tensor:
    """Write rows less the mean of their logits above -inf, 0 for the others.

    Returns:
        [R], how many are above -inf.
    """
    count_R = centred_RC.new_full((len(logit_RC),), logit_RC.shape[1])
    mean_R1 = logit_RC.mean(dim=1, keepdim=True, dtype=centred_RC.dtype)
    torch.sub(logit_RC, mean_R1, out=centred_RC)
    if bool(torch.isneginf(mean_R1).any()):
        masked_RC = torch.isneginf(logit_RC)
        count_R = count_R - masked_RC.sum(dim=1)
        centred_RC.copy_(logit_RC).masked_fill_(masked_RC, 0.0)
        mean_R1 = centred_RC.sum(dim=1, keepdim=True) / count_R[:, None]
        centred_RC.sub_(mean_R1).masked_fill_(masked_RC, 0.0)
    return count_R


def _by_rows(work: Callable[[slice, Tensor], None], logit_PC: Tensor, dtype: torch.dtype) -> None:
    """Do `work` on groups of rows and scratch as large."""
    classes = logit_PC.shape[1]
    on_row_groups(
        work,
        logit_PC,
        lambda rows: logit_PC.new_empty(rows, classes, dtype=dtype),
        _CACHED_ELEMENTS,
        _CACHED_ELEMENTS,
    )
