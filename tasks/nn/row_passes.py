"""What the student's softmax is read from, and its gradient written to: passes over rows of logits.

A few rows at a time stay in a core's cache from operation to operation; groups of rows are shared
out to threads. Scratch is made once a thread. A row's numbers depend on nothing but its logits.

With u the largest logit of the others (what is not kept), e_j = exp((z_j - u) / T): the largest
term is 1 and no kept class is among them, so that they do not vanish however sure the student is.
Where a hard label is asked for too, the same is needed at temperature 1. If T is a power of two
it is e_j squared, once or a few times; else it takes a second exponential. `exp2` is used for its
speed, as in `tasks.nn.others`.

Shape letters: P positions, C classes, K kept, R rows of a group, W the width of scratch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from tasks.nn.positions import some_rows
from tasks.nn.threads import on_row_groups

NO_LABEL = -100

_LANES = 32
_CACHED_ELEMENTS = 1 << 19
_SMALL_ELEMENTS = 1 << 15
_MOST_SQUARES = 4
_LOG2E = math.log2(math.e)


@dataclass(frozen=True)
class Asked:
    """What is read of each position.

    Attributes:
        index_PK: kept class ids; places without an entry repeat the first. K may be 0.
        at: the temperature, of all positions or of each one ([P], of the dtype computed in).
        label_P: hard labels, -100 where there is none; or None.
        smoothing: label smoothing.
        moment: whether `Sums.moment_P` is wanted.
    """

    index_PK: Tensor
    at: float | Tensor
    label_P: Tensor | None
    smoothing: float
    moment: bool

    @property
    def squares(self) -> int | None:
        """How often e is squared to be at temperature 1; None where it cannot be had so."""
        if isinstance(self.at, Tensor):
            return None
        fraction, exponent = math.frexp(self.at)
        return exponent - 1 if fraction == 0.5 and 0 <= exponent - 1 <= _MOST_SQUARES else None


@dataclass(frozen=True)
class Sums:
    """What is read of each position; float32, or float64 where the logits are.

    Attributes:
        kept_PK: logits of the kept classes.
        largest_P: u; 0 where all others are -inf, or none is left.
        mass_P: the sum of e_j over the others.
        moment_P: the sum of e_j (z_j - u).
        mass_one_P: the sum of exp(z_j - u) over the others.
        label_P: the logit of the hard label; of class 0 where there is none.
        sum_P: the sum of all logits.
    """

    kept_PK: Tensor
    largest_P: Tensor
    mass_P: Tensor
    moment_P: Tensor
    mass_one_P: Tensor
    label_P: Tensor
    sum_P: Tensor

    @classmethod
    def of(cls, asked: Asked, like: Tensor) -> Self:
        """Room for what is asked."""
        positions, kept = asked.index_PK.shape
        return cls(like.new_empty(positions, kept), *like.new_empty(6, positions))


@dataclass(frozen=True)
class Slopes:
    """What the gradient of each position is made of.

    The gradient of an unkept class is e_j soft + exp(z_j - u) hard - flat.

    Attributes:
        largest_P: u, as in `Sums`.
        soft_P: see above.
        hard_P: see above; read where there are labels.
        flat_P: see above; read where labels are smoothed.
        kept_PK: the gradient of kept classes; repeated entries say the same.
        label_P: what is added to the hard label's class; read where there are labels.
    """

    largest_P: Tensor
    soft_P: Tensor
    hard_P: Tensor
    flat_P: Tensor
    kept_PK: Tensor
    label_P: Tensor


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """What is computed in: float32, or float64 where the logits are."""
    return torch.promote_types(dtype, torch.float32)


def read(logit_PC: Tensor, asked: Asked, sums: Sums) -> None:
    """Read what is asked of the logits into `sums`."""

    def work(rows: slice, scratch: Tensor) -> None:
        _read(logit_PC[rows], some_rows(asked, rows), some_rows(sums, rows), scratch)

    _by_rows(work, logit_PC, sums.largest_P.dtype)


def write(logit_PC: Tensor, asked: Asked, slopes: Slopes, grad_PC: Tensor) -> None:
    """Write the gradient of the logits, which may be overwritten by it."""

    def work(rows: slice, scratch: Tensor) -> None:
        _write(
            logit_PC[rows], some_rows(asked, rows), some_rows(slopes, rows), grad_PC[rows], scratch
        )

    _by_rows(work, logit_PC, slopes.largest_P.dtype)


def _read(logit_RC: Tensor, asked: Asked, sums: Sums, scratch: Tensor) -> None:
    distance_RC, power_RC = scratch
    distance_RC.copy_(logit_RC)
    torch.gather(distance_RC, 1, asked.index_PK, out=sums.kept_PK)
    if asked.label_P is not None:
        sums.label_P.copy_(distance_RC.gather(1, safe_label(asked.label_P)[:, None])[:, 0])
        if asked.smoothing > 0:
            torch.sum(distance_RC, dim=1, out=sums.sum_P)
    distance_RC.scatter_(1, asked.index_PK, -math.inf)
    largest_R = distance_RC.amax(dim=1)
    sums.largest_P.copy_(torch.where(torch.isneginf(largest_R), 0.0, largest_R))
    distance_RC.sub_(sums.largest_P[:, None])
    if asked.label_P is not None and asked.squares is None:
        torch.mul(distance_RC, _LOG2E, out=power_RC).exp2_()
        torch.sum(power_RC, dim=1, out=sums.mass_one_P)
    torch.mul(distance_RC, _LOG2E / by_row(asked.at), out=power_RC).exp2_()
    torch.sum(power_RC, dim=1, out=sums.mass_P)
    if asked.moment:
        lowest = torch.finfo(distance_RC.dtype).min  # so that 0 times -inf is 0
        distance_RC.clamp_(min=lowest).mul_(power_RC)
        torch.sum(distance_RC, dim=1, out=sums.moment_P)
    if asked.label_P is not None and asked.squares is not None:
        for _ in range(asked.squares):
            power_RC.mul_(power_RC)
        torch.sum(power_RC, dim=1, out=sums.mass_one_P)


def _write(
    logit_RC: Tensor, asked: Asked, slopes: Slopes, grad_RC: Tensor, scratch: Tensor
) -> None:
    distance_RC, power_RC = scratch
    target_RC = grad_RC if grad_RC.dtype == power_RC.dtype else power_RC
    torch.sub(logit_RC, slopes.largest_P[:, None], out=distance_RC)
    _write_others(distance_RC, power_RC, asked, slopes, target_RC)
    target_RC.scatter_(1, asked.index_PK, slopes.kept_PK)
    if asked.label_P is not None:
        label_R1 = safe_label(asked.label_P)[:, None]
        target_RC.scatter_add_(1, label_R1, slopes.label_P[:, None])
    if target_RC is not grad_RC:
        grad_RC.copy_(target_RC)


def _write_others(
    distance_RC: Tensor, power_RC: Tensor, asked: Asked, slopes: Slopes, target_RC: Tensor
) -> None:
    """The gradient of classes that are not kept; what it makes of the others means nothing."""
    soft_R1, hard_R1 = slopes.soft_P[:, None], slopes.hard_P[:, None]
    if asked.label_P is None or asked.squares == 0:
        distance_RC.mul_(_LOG2E / by_row(asked.at)).exp2_()
        slope_R1 = soft_R1 if asked.label_P is None else soft_R1 + hard_R1
        torch.mul(distance_RC, slope_R1, out=target_RC)
    else:
        if asked.squares is None:
            torch.mul(distance_RC, _LOG2E, out=power_RC).exp2_()
            distance_RC.mul_(_LOG2E / by_row(asked.at)).exp2_()
        else:
            distance_RC.mul_(_LOG2E / by_row(asked.at)).exp2_()
            torch.mul(distance_RC, distance_RC, out=power_RC)
            for _ in range(asked.squares - 1):
                power_RC.mul_(power_RC)
        power_RC.mul_(hard_R1)
        torch.add(distance_RC.mul_(soft_R1), power_RC, out=target_RC)
    if asked.label_P is not None and asked.smoothing > 0:
        target_RC.sub_(slopes.flat_P[:, None])


def safe_label(label_P: Tensor) -> Tensor:
    """The label, and class 0 where there is none."""
    return torch.where(label_P == NO_LABEL, 0, label_P)


def by_row(at: float | Tensor) -> float | Tensor:
    """A temperature as a divisor of [P, ...]."""
    return at[:, None] if isinstance(at, Tensor) else at


def _by_rows(work: Callable[[slice, Tensor], None], logit_PC: Tensor, dtype: torch.dtype) -> None:
    on_row_groups(
        work,
        logit_PC,
        lambda rows: _scratch(rows, logit_PC.shape[1], logit_PC, dtype),
        _CACHED_ELEMENTS,
        _SMALL_ELEMENTS,
    )


def _scratch(rows: int, classes: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Two matrices [rows, C], rows of whole vectors: no row's end is in another's vector."""
    width = -(-classes // _LANES) * _LANES
    return like.new_empty(2, rows, width, dtype=dtype)[:, :, :classes]
