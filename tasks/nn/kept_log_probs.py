"""The student's log-probabilities of the kept classes and of all others together.

What is here is all of a loss that touches the student's [P, C] logits, soft and hard in one pass;
gradients are written by hand. Logits may be a tensor, or a `Projected`: the inputs and weights of
the model's output layer, of which the logits of some positions at a time are made, and never those
of all.

Memory beyond the logits and their gradient is O(P * K) and a few rows a thread.

Shape letters: P positions, C classes, K kept classes, W the width of the output layer's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tasks.nn.log_prob_slopes import Totals, outputs, slopes
from tasks.nn.positions import some_rows
from tasks.nn.projected import Projected, Projection, Room
from tasks.nn.row_passes import Asked, Sums, computed_in, read, write

Logits = Tensor | Projected


@dataclass(frozen=True)
class StudentLogProbs:
    """Log-probabilities of a student at one temperature, at least float32.

    Attributes:
        kept_PK: of the kept classes; entries that are not present repeat the first.
        rest_P: of all other classes together; -inf where none is left.
    """

    kept_PK: Tensor
    rest_P: Tensor


def student_log_probs(
    logits: Logits, index_PK: Tensor, present_PK: Tensor, at: float | Tensor
) -> StudentLogProbs:
    """Log-probabilities of the kept classes and of all others together.

    Args:
        logits: the student's, [P, C].
        index_PK: class ids; the first of each row is always present.
        present_PK: which entries are kept; the others are padding, or classes without mass.
        at: the logits are divided by it; one number, or [P], which may need a gradient.
    """
    kept_PK, rest_P, _ = _apply(logits, index_PK, present_PK, at, None, 0.0)
    return StudentLogProbs(kept_PK, rest_P)


def hard_log_probs(logits: Logits, label_P: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the hard label for each position, 0 where it is -100; [P]."""
    nothing_PK = label_P.new_empty(len(label_P), 0)
    return _apply(logits, nothing_PK, nothing_PK.bool(), 1.0, label_P, label_smoothing)[2]


def student_and_hard_log_probs(
    logits: Logits,
    index_PK: Tensor,
    present_PK: Tensor,
    at: float | Tensor,
    label_P: Tensor,
    label_smoothing: float = 0.0,
) -> tuple[StudentLogProbs, Tensor]:
    """What `student_log_probs` and `hard_log_probs` give, in one pass over the logits."""
    kept_PK, rest_P, hard_P = _apply(logits, index_PK, present_PK, at, label_P, label_smoothing)
    return StudentLogProbs(kept_PK, rest_P), hard_P


def kept_log_probs(
    logit_PC: Logits, index_PK: Tensor, present_PK: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """What `student_log_probs` gives, as a pair."""
    found = student_log_probs(logit_PC, index_PK, present_PK, temperature)
    return found.kept_PK, found.rest_P


def _apply(
    logits: Logits,
    index_PK: Tensor,
    present_PK: Tensor,
    at: float | Tensor,
    label_P: Tensor | None,
    smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    at_P = at.to(computed_in(logits.dtype)) if isinstance(at, Tensor) else None
    index_PK = torch.where(present_PK, index_PK, index_PK[:, :1])
    moment = at_P is not None and at_P.requires_grad
    number = at_P.detach() if at_P is not None else float(cast("float", at))
    asked = Asked(index_PK, number, label_P, smoothing, moment)
    if isinstance(logits, Tensor):
        found = _OfLogits.apply(  # type: ignore[no-untyped-call]
            logits, at_P, present_PK, asked
        )
    else:
        made = logits.cast()
        found = _OfProjected.apply(  # type: ignore[no-untyped-call]
            made.hidden_PW, made.weight_CW, made.bias_C, at_P, present_PK, asked, made.room
        )
    return cast("tuple[Tensor, Tensor, Tensor]", found)


class _OfLogits(torch.autograd.Function):
    """From logits that were made elsewhere, and that may be used elsewhere too."""

    @staticmethod
    def forward(
        ctx: Any, logit_PC: Tensor, at_P: Tensor | None, present_PK: Tensor, asked: Asked
    ) -> tuple[Tensor, Tensor, Tensor]:
        sums = Sums.of(asked, logit_PC.new_empty(0, dtype=computed_in(logit_PC.dtype)))
        read(logit_PC, asked, sums)
        found, ctx.totals = outputs(sums, present_PK, asked, logit_PC.shape[1])
        ctx.save_for_backward(logit_PC, present_PK)
        ctx.asked = asked
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logit_PC, present_PK = ctx.saved_tensors
        totals: Totals = ctx.totals
        made, at_slope_P = slopes(totals, present_PK, ctx.asked, grads)
        grad_PC = None
        if ctx.needs_input_grad[0]:
            grad_PC = torch.empty(logit_PC.shape, dtype=logit_PC.dtype, device=logit_PC.device)
            write(logit_PC, ctx.asked, made, grad_PC)
        return grad_PC, at_slope_P, None, None


class _OfProjected(torch.autograd.Function):
    """From the output layer's inputs. Nobody else ever sees the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_PW: Tensor,
        weight_CW: Tensor,
        bias_C: Tensor | None,
        at_P: Tensor | None,
        present_PK: Tensor,
        asked: Asked,
        room: Room | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        projection = Projection(hidden_PW, weight_CW, bias_C, room=room)
        sums = Sums.of(asked, hidden_PW.new_empty(0, dtype=computed_in(hidden_PW.dtype)))
        for rows, logit_RC in projection.blocks():
            read(logit_RC, some_rows(asked, rows), some_rows(sums, rows))
        found, ctx.totals = outputs(sums, present_PK, asked, len(weight_CW))
        ctx.save_for_backward(hidden_PW, weight_CW, bias_C, present_PK)
        ctx.asked = asked
        ctx.room, ctx.logit_PC = room, projection.logit_PC
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_PW, weight_CW, bias_C, present_PK = ctx.saved_tensors
        made, at_slope_P = slopes(ctx.totals, present_PK, ctx.asked, grads)
        projection = Projection(
            hidden_PW,
            weight_CW,
            bias_C,
            room=ctx.room,
            logit_PC=ctx.logit_PC,
            wanted=ctx.needs_input_grad[:3],
        )
        ctx.logit_PC = None  # is overwritten; a second pass backward makes the logits again
        for rows, logit_RC in projection.blocks():
            write(logit_RC, some_rows(ctx.asked, rows), some_rows(made, rows), logit_RC)
            projection.collect(rows, logit_RC)
        projection.give_back()
        return (*projection.grads(), at_slope_P, None, None, None)
