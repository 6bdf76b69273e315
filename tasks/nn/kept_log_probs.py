"""The student's log-probabilities of the kept classes and of all others together.

Shape letters: P positions, C classes, K kept classes.

`kept_log_probs` is the only operation of a soft loss that touches the student's [P, C] logits; its
gradient is written by hand. Memory beyond the logits and their gradient is O(P * K) and one block
of rows.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 1 << 20


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
