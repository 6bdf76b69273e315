"""Sums over the classes that are not kept: what `rest` and the truncation loss are made of.

With u the largest logit of the others, a position needs, at each temperature T, the mass
sum exp((z - u) / T) and the moment sum exp((z - u) / T) (z - u). Kept classes are left out before
anything is summed, nothing is subtracted afterwards, and the largest term is 1, so that neither
vanishes however peaked the teacher is.

One exponential a class serves all temperatures that are powers of two of each other: that of the
largest is squared, which adds its relative error of 2^-23 to itself, 16 times at most. `exp2` is
used for its speed: a fifth of the time of `exp` on a CPU with AVX-512. `std`, where each position
has a temperature of its own, takes an exponential of its own.

Rows of scratch are a multiple of 32 classes wide, so that no class is computed by the scalar code
of a loop's end: a position's numbers do not depend on its place in the block.

Shape letters: P positions, C classes, W the width of scratch, K kept, T temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from storage.options import STD, AnyTemperature, numbers_among

_LANES = 32
_LARGEST_POWER = 16
_NOTHING = {torch.float32: -200.0, torch.float64: -1200.0}
"""An exponent of 2 that is zero exactly."""


@dataclass(frozen=True)
class Others:
    """Sums over the others.

    Attributes:
        largest_P: u; 0 where there is none, or none with mass.
        mass_PT: 1 at least; 0 where there is none with mass.
        moment_PT: 0 at most.
    """

    largest_P: Tensor
    mass_PT: Tensor
    moment_PT: Tensor

    def rows(self, rows: slice) -> Others:
        """Some of the positions, sharing memory."""
        return Others(self.largest_P[rows], self.mass_PT[rows], self.moment_PT[rows])


@dataclass(frozen=True)
class Scratch:
    """Memory for some positions, used again and again: matrices [P, W]."""

    distance_PW: Tensor
    power_PW: Tensor
    product_PW: Tensor
    both_2PW: Tensor
    """The last two as one."""

    @classmethod
    def of(cls, rows: int, num_classes: int, like: Tensor) -> Self:
        """For `rows` positions of `num_classes`, of the dtype and device of `like`."""
        width = -(-num_classes // _LANES) * _LANES
        both_2PW = like.new_empty(2, rows, width)
        return cls(like.new_empty(rows, width), both_2PW[0], both_2PW[1], both_2PW)


def chains(temperatures: Sequence[float]) -> list[list[int]]:
    """Places of temperatures by chain: each the power of two of the next, the largest first."""
    found: list[list[int]] = []
    order = sorted(range(len(temperatures)), key=lambda place: -temperatures[place])
    for place in sorted(order, key=lambda place: math.frexp(temperatures[place])[0]):
        at = temperatures[place]
        first = temperatures[found[-1][0]] if found else at
        same = math.frexp(first)[0] == math.frexp(at)[0] and first / at <= _LARGEST_POWER
        if found and same:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def sum_others(
    logit_PC: Tensor,
    kept_PK: Tensor,
    temperatures: Sequence[AnyTemperature],
    scratch: Scratch,
    others: Others,
    std_P: Tensor | None = None,
) -> None:
    """Write the sums over the classes that are not in `kept_PK` into `others`.

    Args:
        logit_PC: float32 or float64, without NaN and +inf.
        kept_PK: class ids.
        temperatures: T.
        scratch: for P positions at least.
        others: its largest are read, its sums are written.
        std_P: the temperatures of the positions at `std`, where that is among them.
    """
    positions, num_classes = logit_PC.shape
    distance_PW = scratch.distance_PW[:positions]
    power_PW = scratch.power_PW[:positions]
    product_PW = scratch.product_PW[:positions]
    both_2PW = scratch.both_2PW[:, :positions]
    sums_T2P = logit_PC.new_empty(len(temperatures), 2, positions)
    torch.sub(logit_PC, others.largest_P[:, None], out=distance_PW[:, :num_classes])
    if std_P is not None:
        distance_PW[:, num_classes:] = 0
        _weigh_at_std(distance_PW, kept_PK, num_classes, std_P, power_PW, product_PW)
        place = temperatures.index(STD)
        torch.sum(both_2PW, dim=2, out=sums_T2P[place])
        sums_T2P[place, 1].mul_(std_P).mul_(math.log(2))
    numbers = numbers_among(temperatures)
    places = [temperatures.index(at) for at in numbers]
    lowest = _NOTHING[logit_PC.dtype] * math.log(2) * max(numbers)
    distance_PW[:, num_classes:] = lowest
    distance_PW.scatter_(1, kept_PK, lowest).clamp_(min=lowest)
    for chain in chains(numbers):
        at = numbers[chain[0]]
        torch.mul(distance_PW, math.log2(math.e) / at, out=power_PW).exp2_()
        torch.mul(distance_PW, power_PW, out=product_PW)
        for place in chain:
            while at > numbers[place]:
                product_PW.mul_(power_PW)
                power_PW.mul_(power_PW)
                at /= 2
            torch.sum(both_2PW, dim=2, out=sums_T2P[places[place]])
    others.mass_PT.copy_(sums_T2P[:, 0].T)
    others.moment_PT.copy_(sums_T2P[:, 1].T)


def _weigh_at_std(
    distance_PW: Tensor,
    kept_PK: Tensor,
    num_classes: int,
    std_P: Tensor,
    power_PW: Tensor,
    product_PW: Tensor,
) -> None:
    """Write exp(d / T) into `power`, and that times d / (T log 2) into `product`; T by position.

    What is a clear nothing at T = 1 may not be one at the deviation of logits that lie far apart,
    so distances are not cut off before they are divided.
    """
    nothing = _NOTHING[distance_PW.dtype]
    torch.mul(distance_PW, math.log2(math.e) / std_P[:, None], out=power_PW)
    power_PW[:, num_classes:] = nothing
    power_PW.scatter_(1, kept_PK, nothing).clamp_(min=nothing)
    product_PW.copy_(power_PW)
    power_PW.exp2_()
    product_PW.mul_(power_PW)
