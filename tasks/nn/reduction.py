"""From a batch's logits to what is kept of them, in one go: soft labels, fidelity, and what is bad.

Whoever has logits calls `reduce_logits`; a teacher that reduces on its own device gives the same
`Reduced`, so that k numbers a position, not C, leave the device.

On a CPU, groups of rows are shared out to threads. Of a group the largest are found first; then,
for as many rows as stay in a core's cache, the others are summed. Scratch is bounded, the logits
are not changed, and a position's numbers depend on nothing but its logits and key: not on the
batch, its neighbours, or how many threads there are.

Shape letters: P positions, C classes, R positions that are there (real), G of a group, K kept,
T temperatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.options import AnyTemperature, Keep, Selection
from storage.spec import STATISTICS
from tasks.nn.fidelity import Fidelity, fidelity_of
from tasks.nn.gathered import Gathered
from tasks.nn.gathering import Reader, rows_of_group
from tasks.nn.nucleus import nucleus
from tasks.nn.positions import some_rows
from tasks.nn.softlabels import SoftLabels, soft_labels, top_k
from tasks.nn.threads import on_threads

_LANES = 16


@dataclass(frozen=True)
class Reduction:
    """What is to be kept of each position.

    Attributes:
        selection: which entries.
        temperatures: T first.
        num_classes: the real classes; further outputs are padding, which only `rest` counts.
        statistics: also the largest logit, mean, deviation and the sum of p squared at T = 1.
    """

    selection: Selection
    temperatures: tuple[AnyTemperature, ...]
    num_classes: int
    statistics: bool = False

    @property
    def drawn_at(self) -> float | None:
        """Of a sampled set, the temperature at which it is drawn, where the rest is kept there."""
        drawn = self.selection.keep is Keep.SAMPLE
        at = self.selection.temperature
        return at if drawn and at in self.temperatures else None


@dataclass(frozen=True)
class Reduced:
    """What is left of the logits of the R positions that are there.

    Attributes:
        kept: the soft labels; of bad positions their content means nothing.
        fidelity: how close they are to the full softmax.
        bad_R: positions whose logits are NaN, +inf, or -inf throughout.
        best_R: the teacher's best class, padding included, int64.
    """

    kept: SoftLabels
    fidelity: Fidelity
    bad_R: Tensor
    best_R: Tensor


def reduce_logits(
    logit_PC: Tensor,
    real_P: Tensor,
    label_P: Tensor | None,
    reduction: Reduction,
    keys_R: NDArray[np.uint64] | None = None,
) -> Reduced:
    """Reduce logits where they lie.

    Args:
        logit_PC: any floating type, on any device; computed in float32, or float64 where it is.
        real_P: the positions that are there, bool, on the CPU; the others are padding.
        label_P: hard labels, int64, negative where there is none; or None.
        reduction: what is to be kept.
        keys_R: a key for each position that is there, where entries are drawn.
    """
    place_R = None if bool(real_P.all()) else real_P.nonzero()[:, 0]
    count = len(logit_PC) if place_R is None else len(place_R)
    if label_P is not None:
        label_P = label_P if place_R is None else label_P[place_R.to(label_P.device)]
        label_P = label_P.to(logit_PC.device)
    found = _room(count, logit_PC, label_P is not None, reduction)
    size = rows_of_group(logit_PC, count)

    def read(starts: Iterator[int]) -> None:
        start = next(starts, None)
        if start is None:
            return
        reader = Reader(
            logit_PC, size, reduction.selection, reduction.num_classes, found.most_P.dtype
        )
        while start is not None:
            rows = slice(start, min(start + size, count))
            reader.read(
                _group(logit_PC, place_R, rows),
                None if label_P is None else label_P[rows],
                None if keys_R is None else keys_R[rows],
                found.rows(rows),
            )
            start = next(starts, None)

    made: list[Reduced] = []
    starts = range(0, count, size)
    if logit_PC.device.type == "cpu":
        on_threads(read, starts)
        on_threads(lambda parts: made.extend(conclude(part, reduction) for part in parts), [found])
    else:
        read(iter(starts))
        made.append(conclude(found, reduction))
    return some_rows(made[0], slice(count))


def capture(
    logit_PC: Tensor,
    label_P: Tensor | None,
    selection: Selection | int,
    temperatures: Sequence[AnyTemperature],
    *,
    keys_P: NDArray[np.uint64] | None = None,
    num_classes: int | None = None,
    statistics: bool = False,
) -> SoftLabels:
    """The soft labels of all positions alone.

    Args:
        logit_PC: finite but for -inf entries.
        label_P: hard labels, int64, negative where there is none.
        selection: which entries to keep; a number means so many of the largest.
        temperatures: T first.
        keys_P: a key for each position that is drawn from (see `storage.order.position_keys`).
        num_classes: the real classes; further outputs are padding, which only `rest` counts.
        statistics: also the largest logit, mean, deviation and the sum of p squared at T = 1.
    """
    chosen = top_k(selection) if isinstance(selection, int) else selection
    real = logit_PC.shape[1] if num_classes is None else num_classes
    reduction = Reduction(chosen, tuple(temperatures), real, statistics)
    real_P = torch.ones(len(logit_PC), dtype=torch.bool)
    return reduce_logits(logit_PC, real_P, label_P, reduction, keys_P).kept


def conclude(found: Gathered, reduction: Reduction) -> Reduced:
    """What follows from the numbers that were read from the logits, in float64.

    Args:
        found: of as many positions as `reduction` is of; all that a device has to bring.
        reduction: what is kept.
    """
    kept_P = None
    if reduction.selection.keep is Keep.TOP_P:
        found, kept_P = nucleus(found, reduction.selection)
    elif found.count_PK is not None:
        kept_P = (found.count_PK > 0).sum(dim=1)
    kept = soft_labels(found, kept_P, reduction.temperatures)
    fidelity = fidelity_of(found, kept_P, reduction.temperatures, reduction.drawn_at)
    return Reduced(kept, fidelity, found.bad_P, found.best_P)


def _room(count: int, logit_PC: Tensor, labelled: bool, reduction: Reduction) -> Gathered:
    """Room for what is read: whole vectors of positions, so that none is a loop's scalar end."""
    selection = reduction.selection
    temperatures = reduction.temperatures
    if selection.keep is Keep.TOP_P:
        temperatures = tuple(dict.fromkeys((*temperatures, selection.temperature)))
    return Gathered.of(
        max(-(-count // _LANES), 1) * _LANES,
        logit_PC.shape[1],
        selection.k,
        temperatures,
        logit_PC.new_empty(0, dtype=_computed_in(logit_PC)),
        drawn=selection.keep is Keep.SAMPLE,
        labelled=labelled,
        statistics=STATISTICS if reduction.statistics else (),
    )


def _group(logit_PC: Tensor, place_R: Tensor | None, rows: slice) -> Tensor:
    """Some rows of those that are there; a view where they lie side by side."""
    if place_R is None:
        group_GC = logit_PC[rows]
    else:
        place_G = place_R[rows]
        first, last = int(place_G[0]), int(place_G[-1])
        side_by_side = last - first + 1 == len(place_G)
        group_GC = logit_PC[first : last + 1] if side_by_side else logit_PC[place_G]
    return group_GC.to(_computed_in(logit_PC))


def _computed_in(logit_PC: Tensor) -> torch.dtype:
    return torch.float64 if logit_PC.dtype == torch.float64 else torch.float32
