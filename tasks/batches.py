"""Which samples of a shard go through the teacher together.

Batches are built inside a shard only, so that its bytes depend neither on who makes it nor on what
was made before. Samples of varying length are sorted by it, the longest first: what needs most
memory runs before anything else, and later batches find room that was there already. Each batch is
padded to one of few lengths, at most sixteen for each doubling, so that kernels and memory that
were prepared for one length serve again. A batch ends early where more than a twelfth of it would
be padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEPS_OF_A_DOUBLING = 16
_MOST_PADDING = 1 / 12


@dataclass(frozen=True)
class PlannedBatch:
    """Samples that the teacher sees at once.

    Attributes:
        places: where they stand among the samples of the shard, int64.
        length: what they are padded to; None where all inputs have one shape.
    """

    places: NDArray[np.int64]
    length: int | None


def plan_batches(
    count: int, lengths_B: NDArray[np.int64] | None, batch_size: int
) -> list[PlannedBatch]:
    """Cut the samples of a shard into batches.

    Args:
        count: how many samples there are.
        lengths_B: how long each is; None where all inputs have one shape.
        batch_size: samples of a batch.
    """
    if lengths_B is None:
        starts = range(0, count, batch_size)
        return [
            PlannedBatch(np.arange(start, min(start + batch_size, count), dtype=np.int64), None)
            for start in starts
        ]
    order = np.argsort(-lengths_B, kind="stable").astype(np.int64)
    sorted_B = lengths_B[order]
    batches = []
    start = 0
    while start < count:
        # Never beyond the longest sample: models may have a limit.
        length = min(padded_length(int(sorted_B[start])), int(sorted_B[0]))
        stop = start + _fitting(sorted_B[start : start + batch_size], length)
        batches.append(PlannedBatch(order[start:stop], length))
        start = stop
    return batches


def _fitting(lengths_B: NDArray[np.int64], length: int) -> int:
    """How many of the longest samples go together: at least those that are as long as the first."""
    computed_B = np.arange(1, len(lengths_B) + 1) * length
    little_B = np.cumsum(lengths_B) >= (1 - _MOST_PADDING) * computed_B
    same_B = lengths_B == lengths_B[0]
    return int(np.flatnonzero(little_B | same_B)[-1]) + 1


def padded_length(length: int) -> int:
    """The least of the few lengths that holds `length`: less than a sixteenth is added."""
    step = max(1, (1 << max(length - 1, 1).bit_length()) // (2 * _STEPS_OF_A_DOUBLING))
    return -(-length // step) * step


def real_share(batches: Sequence[PlannedBatch], lengths_B: NDArray[np.int64]) -> float:
    """The share of real ones among the tokens that are computed."""
    computed = sum(len(batch.places) * (batch.length or 1) for batch in batches)
    return float(lengths_B.sum()) / max(computed, 1)
