"""Reading the logits of some positions: all that looks at every class.

The largest of a group of rows are found first; then, for as many rows as stay in a core's cache,
the others are summed.

Shape letters: G positions of a group, C classes, K kept, T temperatures.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.options import Keep, Selection
from storage.spec import STATISTICS
from tasks.nn.deviation import std_temperature
from tasks.nn.draws import draw
from tasks.nn.gathered import Gathered
from tasks.nn.largest import Candidates, largest
from tasks.nn.others import Scratch, sum_others

_GROUP_ELEMENTS = 1 << 20
_CACHED_ELEMENTS = 1 << 18
_DEVICE_ELEMENTS = 1 << 24


def rows_of_group(logit_PC: Tensor, positions: int) -> int:
    """How many positions are read at a time."""
    on_cpu = logit_PC.device.type == "cpu"
    most = (_GROUP_ELEMENTS if on_cpu else _DEVICE_ELEMENTS) // logit_PC.shape[1]
    share = -(-positions // torch.get_num_threads()) if on_cpu else positions
    return max(1, min(most, share))


class Reader:
    """Reads logits, group after group, with the same scratch memory: one for each thread.

    Args:
        like: the logits; their device and number of classes count.
        rows: positions of a group at most.
        selection: which entries are kept.
        num_classes: the real ones, which come first.
    """

    def __init__(
        self, like: Tensor, rows: int, selection: Selection, num_classes: int, dtype: torch.dtype
    ) -> None:
        classes = like.shape[1]
        self._selection = selection
        self._num_classes = num_classes
        self._nothing_left = selection.keep is not Keep.SAMPLE and selection.k == classes
        self._at_once = rows
        if like.device.type == "cpu":
            self._at_once = min(rows, max(1, _CACHED_ELEMENTS // classes))
        empty = like.new_empty(0, dtype=dtype)
        wanted = 1 if selection.keep is Keep.SAMPLE else min(selection.k + 1, num_classes)
        self._candidates = Candidates.of(rows, num_classes, wanted, empty)
        self._scratch = Scratch.of(self._at_once, classes, empty)

    def read(
        self,
        logit_GC: Tensor,
        label_G: Tensor | None,
        keys_G: NDArray[np.uint64] | None,
        found: Gathered,
    ) -> None:
        """Read the logits into `found`; bad positions are read as if all logits were 0.

        Args:
            logit_GC: float32 or float64.
            label_G: hard labels, negative where there is none.
            keys_G: of each position, where entries are drawn.
            found: of these positions.
        """
        self._read(logit_GC, label_G, keys_G, found)
        others = found.others
        any_G = found.value_PK.sum(dim=1) + others.mass_PT[:, 0] + others.largest_P
        bad_G = any_G.isnan() | ~found.most_P.isfinite() | (others.largest_P == math.inf)
        if bool(bad_G.any()):
            plain_GC = logit_GC.masked_fill(bad_G[:, None], 0.0)
            self._read(plain_GC, label_G, keys_G, found)
        found.bad_P.copy_(bad_G)

    def _read(
        self,
        logit_GC: Tensor,
        label_G: Tensor | None,
        keys_G: NDArray[np.uint64] | None,
        found: Gathered,
    ) -> None:
        real_GC = logit_GC[:, : self._num_classes]
        if self._selection.keep is Keep.SAMPLE:
            assert keys_G is not None
            left_G = self._read_draws(real_GC, keys_G, found)
        else:
            left_G = self._read_largest(real_GC, found)
        if self._num_classes < logit_GC.shape[1]:
            padding_G, place_G = logit_GC[:, self._num_classes :].max(dim=1)
            left_G = torch.maximum(left_G, padding_G)
            place_G = place_G + self._num_classes
            found.best_P.copy_(torch.where(padding_G > found.most_P, place_G, found.best_P))
        found.others.largest_P.copy_(left_G.masked_fill(left_G == -math.inf, 0.0))
        if found.std_P is not None:
            self._read_std(real_GC, found.most_P, found.std_P)
        self._read_others(logit_GC, found)
        if label_G is not None:
            assert found.label_P is not None
            value_G = logit_GC.gather(1, label_G.clamp(min=0)[:, None])[:, 0]
            found.label_P.copy_(torch.where(label_G < 0, found.most_P, value_G))
        if found.statistics:
            for name, column_G in _statistics(logit_GC).items():
                found.statistics[name].copy_(column_G)

    def _read_largest(self, real_GC: Tensor, found: Gathered) -> Tensor:
        """The k largest, and the largest of what is left."""
        k = self._selection.k
        value_GK, index_GK = largest(real_GC, self._candidates)
        found.value_PK.copy_(value_GK[:, :k])
        found.index_PK.copy_(index_GK[:, :k])
        found.most_P.copy_(value_GK[:, 0])
        found.best_P.copy_(index_GK[:, 0])
        return value_GK[:, k] if k < real_GC.shape[1] else torch.full_like(found.most_P, -math.inf)

    def _read_draws(self, real_GC: Tensor, keys_G: NDArray[np.uint64], found: Gathered) -> Tensor:
        """What is drawn, and the largest of what is not."""
        selection = self._selection
        assert selection.draws is not None
        assert found.count_PK is not None
        drawn = draw(real_GC, keys_G, selection.draws, selection.temperature, selection.k)
        value_GK = real_GC.gather(1, drawn.index_PK)
        found.value_PK.copy_(value_GK.masked_fill(drawn.count_PK == 0, -math.inf))
        found.index_PK.copy_(drawn.index_PK)
        found.count_PK.copy_(drawn.count_PK)
        most_G1, best_G1 = largest(real_GC, self._candidates)
        found.most_P.copy_(most_G1[:, 0])
        found.best_P.copy_(best_G1[:, 0])
        return real_GC.scatter(1, drawn.index_PK, -math.inf).amax(dim=1)

    def _read_std(self, real_GC: Tensor, most_G: Tensor, std_G: Tensor) -> None:
        for start in range(0, len(real_GC), self._at_once):
            some = slice(start, start + self._at_once)
            std_G[some] = std_temperature(real_GC[some], most_G[some], self._scratch)

    def _read_others(self, logit_GC: Tensor, found: Gathered) -> None:
        if self._nothing_left:
            found.others.mass_PT.zero_()
            found.others.moment_PT.zero_()
            return
        for start in range(0, len(logit_GC), self._at_once):
            some = slice(start, start + self._at_once)
            part = found.others.rows(some)
            index_GK = found.index_PK[some]
            std_G = None if found.std_P is None else found.std_P[some]
            sum_others(logit_GC[some], index_GK, found.temperatures, self._scratch, part, std_G)


def _statistics(logit_PC: Tensor) -> dict[str, Tensor]:
    finite_PC = torch.isfinite(logit_PC)
    count_P = finite_PC.sum(dim=1)
    mean_P = torch.where(finite_PC, logit_PC, 0.0).sum(dim=1) / count_P
    centred_PC = torch.where(finite_PC, logit_PC - mean_P[:, None], 0.0)
    deviation_P = (centred_PC.square().sum(dim=1) / count_P).sqrt()
    squares_P = torch.softmax(logit_PC, dim=1).square().sum(dim=1)
    columns = (logit_PC.amax(dim=1), mean_P, deviation_P, squares_P)
    return dict(zip(STATISTICS, columns, strict=True))
