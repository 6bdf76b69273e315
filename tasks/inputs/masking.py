"""Which tokens of a block a masked language model has to guess.

Chosen by (seed, sample id, position) alone, so that a block is always masked in the same way.

Shape letters: B blocks, N tokens of all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from storage.order import mix64, position_keys

_WHOLE = 2.0**64


def masked_positions(
    sample_ids: Sequence[str], lengths_B: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.bool_]:
    """The positions [N] to guess: each with probability `share`, and at least one of a block.

    Args:
        sample_ids: of the blocks.
        lengths_B: tokens of each block, at least one.
        share: between 0 and 1.
        seed: another seed chooses others.
    """
    if not len(lengths_B):
        return np.zeros(0, np.bool_)
    key_N = mix64(position_keys(sample_ids, lengths_B, seed))
    chosen_N: NDArray[np.bool_] = key_N < np.uint64(int(share * _WHOLE))
    starts_B = np.cumsum(lengths_B) - lengths_B
    least_B = np.minimum.reduceat(key_N, starts_B)
    least_N: NDArray[np.bool_] = key_N == np.repeat(least_B, lengths_B)
    return chosen_N | least_N
