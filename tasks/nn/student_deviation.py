"""The deviation of a student's own logits, which it learns through: its temperature at `std`.

Its gradient is written by hand, so that no other matrix of positions x classes is made; of logits
that are not made yet it follows from the output layer's covariance, and none is made at all.

Shape letters: P positions, C classes, R rows of a block, W the width of the output layer's input.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from tasks.nn.kept_log_probs import Logits
from tasks.nn.projected import Projected

LEAST = 1e-3
"""What is taken for the deviation where it is smaller, as of a student that has learnt nothing yet:
then it is no function of the logits."""
_BLOCK_ELEMENTS = 1 << 20


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
    dtype = torch.promote_types(logits.dtype, torch.float32)
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
        dtype = torch.promote_types(logit_PC.dtype, torch.float32)
        found_P = torch.empty(len(logit_PC), dtype=dtype, device=logit_PC.device)
        for rows in _row_blocks(logit_PC):
            centred_RC, count_R1 = _centred(logit_PC[rows].to(dtype))
            found_P[rows] = (centred_RC.square().sum(dim=1) / count_R1[:, 0]).sqrt()
        ctx.save_for_backward(logit_PC, found_P)
        return found_P

    @staticmethod
    def backward(ctx: Any, grad_P: Tensor) -> Tensor:
        logit_PC, found_P = ctx.saved_tensors
        slope_P = torch.where(found_P > 0, grad_P / found_P, 0.0)
        grad_PC = torch.empty_like(logit_PC)
        for rows in _row_blocks(logit_PC):
            centred_RC, count_R1 = _centred(logit_PC[rows].to(found_P.dtype))
            grad_PC[rows] = (centred_RC * (slope_P[rows, None] / count_R1)).to(grad_PC.dtype)
        return grad_PC


def _centred(logit_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Rows less the mean of their entries above -inf, 0 for the others; and how many those are."""
    finite_RC = ~torch.isneginf(logit_RC)
    count_R1 = finite_RC.sum(dim=1, keepdim=True).clamp(min=1)
    mean_R1 = torch.where(finite_RC, logit_RC, 0.0).sum(dim=1, keepdim=True) / count_R1
    return torch.where(finite_RC, logit_RC - mean_R1, 0.0), count_R1


def _row_blocks(logit_PC: Tensor) -> list[slice]:
    size = max(1, _BLOCK_ELEMENTS // logit_PC.shape[1])
    return [slice(start, start + size) for start in range(0, len(logit_PC), size)]
