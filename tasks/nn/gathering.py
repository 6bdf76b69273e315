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
from tasks.nn.draws import draw
from tasks.nn.gathered import Gathered
from tasks.nn.largest import largest
from tasks.nn.others import Scratch, sum_others

_GROUP_ELEMENTS = 1 << 20
_CACHED_ELEMENTS = 1 << 17
_DEVICE_ELEMENTS = 1 << 25


def rows_of_group(logit_PC: Tensor, positions: int) -> int:
    """How many positions are read at a time."""
    on_cpu = logit_PC.device.type == "cpu"
    most = (_GROUP_ELEMENTS if on_cpu else _DEVICE_ELEMENTS) // logit_PC.shape[1]
    share = -(-positions // torch.get_num_threads()) if on_cpu else positions
    return max(1, min(most, share))


def gather(
    logit_GC: Tensor,
    label_G: Tensor | None,
    keys_G: NDArray[np.uint64] | None,
    selection: Selection,
    num_classes: int,
    found: Gathered,
) -> None:
    """Read the logits into `found`; bad positions are read as if all logits were 0.

    Args:
        logit_GC: float32 or float64.
        label_G: hard labels, negative where there is none.
        keys_G: of each position, where entries are drawn.
        selection: which entries are kept.
        num_classes: the real ones, which come first.
        found: of these positions.
    """
    _read(logit_GC, label_G, keys_G, selection, num_classes, found)
    entries_G = found.value_PK.sum(dim=1) + found.others.mass_PT[:, 0] + found.others.largest_P
    bad_G = entries_G.isnan() | ~found.most_P.isfinite() | (found.others.largest_P == math.inf)
    if bool(bad_G.any()):
        plain_GC = logit_GC.masked_fill(bad_G[:, None], 0.0)
        _read(plain_GC, label_G, keys_G, selection, num_classes, found)
    found.bad_P.copy_(bad_G)


def _read(
    logit_GC: Tensor,
    label_G: Tensor | None,
    keys_G: NDArray[np.uint64] | None,
    selection: Selection,
    num_classes: int,
    found: Gathered,
) -> None:
    real_GC = logit_GC[:, :num_classes]
    if selection.keep is Keep.SAMPLE:
        assert keys_G is not None
        largest_G = _read_draws(real_GC, keys_G, selection, found)
    else:
        largest_G = _read_largest(real_GC, selection.k, found)
    if num_classes < logit_GC.shape[1]:
        padding_G, place_G = logit_GC[:, num_classes:].max(dim=1)
        largest_G = torch.maximum(largest_G, padding_G)
        better_G = padding_G > found.most_P
        found.best_P.copy_(torch.where(better_G, place_G + num_classes, found.best_P))
    found.others.largest_P.copy_(torch.where(largest_G == -math.inf, 0.0, largest_G))
    _read_others(logit_GC, selection, found)
    if label_G is not None:
        assert found.label_P is not None
        value_G = logit_GC.gather(1, label_G.clamp(min=0)[:, None])[:, 0]
        found.label_P.copy_(torch.where(label_G < 0, found.most_P, value_G))
    if found.statistics:
        for name, column_G in _statistics(logit_GC).items():
            found.statistics[name].copy_(column_G)


def _read_largest(real_GC: Tensor, k: int, found: Gathered) -> Tensor:
    """The k largest, and the largest of what is left."""
    value_GK, index_GK = largest(real_GC, min(k + 1, real_GC.shape[1]))
    found.value_PK.copy_(value_GK[:, :k])
    found.index_PK.copy_(index_GK[:, :k])
    found.most_P.copy_(value_GK[:, 0])
    found.best_P.copy_(index_GK[:, 0])
    return value_GK[:, k] if k < real_GC.shape[1] else value_GK.new_full((len(value_GK),), -math.inf)


def _read_draws(
    real_GC: Tensor, keys_G: NDArray[np.uint64], selection: Selection, found: Gathered
) -> Tensor:
    """What is drawn, and the largest of what is not."""
    assert selection.draws is not None
    assert found.count_PK is not None
    drawn = draw(real_GC, keys_G, selection.draws, selection.temperature, selection.k)
    value_GK = real_GC.gather(1, drawn.index_PK)
    found.value_PK.copy_(value_GK.masked_fill(drawn.count_PK == 0, -math.inf))
    found.index_PK.copy_(drawn.index_PK)
    found.count_PK.copy_(drawn.count_PK)
    most_G1, best_G1 = largest(real_GC, 1)
    found.most_P.copy_(most_G1[:, 0])
    found.best_P.copy_(best_G1[:, 0])
    return real_GC.scatter(1, drawn.index_PK, -math.inf).amax(dim=1)


def _read_others(logit_GC: Tensor, selection: Selection, found: Gathered) -> None:
    positions, num_classes = logit_GC.shape
    if selection.k == num_classes and selection.keep is not Keep.SAMPLE:
        found.others.mass_PT.zero_()
        found.others.moment_PT.zero_()
        return
    size = positions
    if logit_GC.device.type == "cpu":
        size = min(positions, max(1, _CACHED_ELEMENTS // num_classes))
    scratch = Scratch.of(size, num_classes, logit_GC)
    for start in range(0, positions, size):
        part = found.rows(slice(start, start + size))
        some_GC = logit_GC[start : start + size]
        sum_others(some_GC, part.index_PK, found.temperatures, scratch, part.others)


def _statistics(logit_PC: Tensor) -> dict[str, Tensor]:
    finite_PC = torch.isfinite(logit_PC)
    count_P = finite_PC.sum(dim=1)
    mean_P = torch.where(finite_PC, logit_PC, 0.0).sum(dim=1) / count_P
    centred_PC = torch.where(finite_PC, logit_PC - mean_P[:, None], 0.0)
    return {
        "max_logit": logit_PC.amax(dim=1),
        "logit_mean": mean_P,
        "logit_std": (centred_PC.square().sum(dim=1) / count_P).sqrt(),
        "squares": torch.softmax(logit_PC, dim=1).square().sum(dim=1),
    }
