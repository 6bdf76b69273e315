"""Which samples of each global batch belong to which rank.

Batches are cut from the order of samples without regard to who reads them, so the sequence of
global batches is the same for any number of ranks. Each rank takes a contiguous part of each batch;
parts differ by one sample at most. The last batch of an epoch is smaller where the batch size does
not divide the samples. A rank that would have no sample of it takes its last one as a stand-in,
which counts nowhere, so that all ranks have the same number of batches and none is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.errors import RecipeError
from storage.order import Window


@dataclass(frozen=True)
class Part:
    """What one rank takes of each batch.

    Attributes:
        batch_size: samples of a global batch.
        rank: whose part it is, from 0.
        world: how many ranks there are.
    """

    batch_size: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise RecipeError(f"expected a rank from 0 to {self.world - 1}, got {self.rank}")
        if self.batch_size < self.world:
            raise RecipeError(
                f"a batch of {self.batch_size} samples cannot be divided among {self.world} "
                "processes; raise training.batch_size, or train in fewer processes"
            )

    def bounds(self, size: int) -> tuple[int, int]:
        """Where the part of a batch of `size` samples begins and ends; never empty."""
        first, last = (place * size // self.world for place in (self.rank, self.rank + 1))
        return (size - 1, size) if first == last else (first, last)

    def is_stand_in(self, size: int) -> bool:
        """Whether a batch of `size` samples has none for this rank."""
        return self.rank * size // self.world == (self.rank + 1) * size // self.world

    def batches(self, num_samples: int) -> Iterator[int]:
        """The sizes of the global batches of so many samples."""
        whole, left = divmod(num_samples, self.batch_size)
        for _ in range(whole):
            yield self.batch_size
        if left:
            yield left

    def windows(self, windows: Iterator[Window], num_samples: int) -> Iterator[Window]:
        """The same windows with the rows of this rank alone; those without any are left out.

        Args:
            windows: all rows from the beginning of a batch to the end of the epoch.
            num_samples: how many these are.
        """
        place = 0
        for window in windows:
            mine = self._mine(place, place + len(window.rows), num_samples)
            place += len(window.rows)
            if mine.any():
                yield window.only(window.rows[mine])

    def _mine(self, start: int, stop: int, num_samples: int) -> NDArray[np.bool_]:
        """Which of the places from `start` to `stop` are of this rank."""
        whole = num_samples - num_samples % self.batch_size
        places = np.arange(start, stop)
        first, last = self.bounds(self.batch_size)
        within = places % self.batch_size
        mine = (first <= within) & (within < last)
        if stop > whole:
            first, last = self.bounds(num_samples - whole)
            ending = places[places >= whole] - whole
            mine[places >= whole] = (first <= ending) & (ending < last)
        return mine
