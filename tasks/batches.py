"""Which samples of a shard go through the teacher together.

Batches are built inside a shard only, so that its bytes depend neither on who makes it nor on what
was made before. Samples of varying length are sorted by it, the longest first: what needs most
memory runs before anything else, and later batches find room that was there already. Each batch is
padded to one of few lengths, at most sixteen for each doubling, so that kernels and memory that
were prepared for one length serve again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEPS_OF_A_DOUBLING = 16


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
        order = np.arange(count, dtype=np.int64)
    else:
        order = np.argsort(-lengths_B, kind="stable").astype(np.int64)
    batches = []
    for start in range(0, count, batch_size):
        places = order[start : start + batch_size]
        batches.append(PlannedBatch(places, _length(lengths_B, order, start)))
    return batches


def _length(
    lengths_B: NDArray[np.int64] | None, order: NDArray[np.int64], first: int
) -> int | None:
    """What a batch is padded to, never beyond the longest sample: models may have a limit."""
    if lengths_B is None:
        return None
    longest = int(lengths_B[order[0]])
    return min(padded_length(int(lengths_B[order[first]])), longest)


def padded_length(length: int) -> int:
    """The least of the few lengths that holds `length`: less than a sixteenth is added."""
    step = max(1, (1 << max(length - 1, 1).bit_length()) // (2 * _STEPS_OF_A_DOUBLING))
    return -(-length // step) * step


def real_share(batches: Sequence[PlannedBatch], lengths_B: NDArray[np.int64]) -> float:
    """The share of real ones among the tokens that are computed."""
    computed = sum(len(batch.places) * (batch.length or 1) for batch in batches)
    return float(lengths_B.sum()) / max(computed, 1)
