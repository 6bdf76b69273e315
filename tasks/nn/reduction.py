"""From a batch's logits to what is kept of them, in one go: soft labels, fidelity, and what is bad.

Whoever has logits calls `reduce_logits`; a teacher that reduces on its own device gives the same
`Reduced`, so that k numbers a position, not C, leave the device.

Shape letters: P positions, C classes, R positions that are there (real), K kept, T temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.options import Keep, Selection
from tasks.nn.fidelity import Fidelity, measure
from tasks.nn.softlabels import SoftLabels, capture


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
    temperatures: tuple[float, ...]
    num_classes: int
    statistics: bool = False

    @property
    def drawn_at(self) -> float | None:
        """Of a sampled set, the temperature at which it is drawn."""
        return self.selection.temperature if self.selection.keep is Keep.SAMPLE else None


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
        logit_PC: any floating type, on any device.
        real_P: the positions that are there, bool, on the CPU; the others are padding.
        label_P: hard labels, int64, negative where there is none; or None.
        reduction: what is to be kept.
        keys_R: a key for each position that is there, where entries are drawn.
    """
    if not bool(real_P.all()):
        there_P = real_P.to(logit_PC.device)
        logit_PC = logit_PC[there_P]
        label_P = None if label_P is None else label_P[real_P]
    best_R = logit_PC.argmax(dim=1)
    bad_R = ~torch.isfinite(logit_PC.amax(dim=1))
    if bool(bad_R.any()):
        logit_PC = logit_PC.masked_fill(bad_R[:, None], 0.0)
    kept = capture(
        logit_PC,
        None if label_P is None else label_P.to(logit_PC.device),
        reduction.selection,
        reduction.temperatures,
        keys_P=keys_R,
        num_classes=reduction.num_classes,
        statistics=reduction.statistics,
    )
    fidelity = measure(logit_PC, kept, reduction.temperatures, reduction.drawn_at)
    return Reduced(kept, fidelity, bad_R, best_R)
