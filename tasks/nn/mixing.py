"""The outputs of several teachers as one, before anything is kept of it.

Probabilities are mixed as the log of their mean, by logsumexp over the members' log-softmax: exact
far below what a float32 probability can hold. Members come one after another, and of each nothing
is copied but a block of rows: memory is the mixture and one member's logits.

-inf is legal. Mixed as probabilities, a class has no mass where no member gives it any; mixed as
logits, where any member gives it none. A row that is NaN, +inf or all -inf in one member is NaN.

Shape letters: P positions, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from tasks.teacher_options import Mix

_BLOCK_ELEMENTS = 1 << 20


class Mixture:
    """A weighted mean that grows, member by member.

    Args:
        mix: what is averaged.
    """

    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self._sum_PC: Tensor | None = None

    def add(self, logit_PC: Tensor, share: float) -> None:
        """Mix in one member.

        Args:
            logit_PC: its logits, of any float type and on any device; not changed.
            share: its weight over the sum of all weights.
        """
        first = self._sum_PC is None
        if self._sum_PC is None:
            self._sum_PC = torch.empty(logit_PC.shape, dtype=torch.float32, device=logit_PC.device)
        for rows in _blocks(self._sum_PC):
            block = logit_PC[rows].to(self._sum_PC.device, torch.float32)
            if self._mix is Mix.LOGITS:
                block = block * share
            else:
                block = torch.log_softmax(block, dim=1) + math.log(share)
            if first:
                self._sum_PC[rows] = block
            elif self._mix is Mix.LOGITS:
                self._sum_PC[rows] += block
            else:
                torch.logaddexp(self._sum_PC[rows], block, out=self._sum_PC[rows])

    @property
    def logit_PC(self) -> Tensor:
        """The mixture, [P, C] float32: log-probabilities, or logits."""
        if self._sum_PC is None:
            raise ValueError("nothing is mixed yet")
        return self._sum_PC


def _blocks(values_PC: Tensor) -> Iterator[slice]:
    """Rows whose copies cost little beside the whole."""
    rows = max(1, _BLOCK_ELEMENTS // max(values_PC.shape[1], 1))
    for start in range(0, len(values_PC), rows):
        yield slice(start, start + rows)
