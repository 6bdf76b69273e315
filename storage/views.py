"""Views: several augmented forms of each training sample, told apart by a seed each.

Row r of the training split is view r % n of sample r // n. What a view looks like is decided by its
seed alone (see `tasks.nn.augment`); rows keep the inputs as they are, and the seed beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.options import TRAIN, DataOptions
from storage.rows import Column, Rows, num_rows, take
from storage.schema import SAMPLE_ID, VIEW, VIEW_SEED

ORIGINAL = 0
"""The seed of a view that is the sample as it is."""


@dataclass(frozen=True)
class Views:
    """The views of the samples of one split.

    Attributes:
        count: n, of each sample.
        seed: another seed makes other views.
        original_first: whether view 0 is the sample as it is.
    """

    count: int
    seed: int
    original_first: bool

    @classmethod
    def of(cls, options: DataOptions, split: str) -> Views | None:
        """The views of a split; None where a sample is one row, as it is."""
        if split != TRAIN or not options.augment:
            return None
        return cls(options.views, options.augment_seed, options.original_first)

    def samples(self, start: int, stop: int) -> tuple[int, int]:
        """The range of samples that the rows from `start` to `stop` are views of."""
        return start // self.count, -(-stop // self.count)

    def expand(self, samples: Rows, start: int, stop: int) -> dict[str, Column]:
        """The rows from `start` to `stop`.

        Args:
            samples: those that `samples(start, stop)` tells.
            start: the first row, counted in the split.
            stop: the first row that is left out.
        """
        places = np.arange(start, stop, dtype=np.int64)
        rows = take(samples, places // self.count - start // self.count)
        view_B = (places % self.count).astype(np.int32)
        ids = [str(name) for name in np.asarray(rows[SAMPLE_ID])]
        return {**rows, VIEW: view_B, VIEW_SEED: self.seeds(ids, view_B)}

    def expand_all(self, samples: Rows) -> dict[str, Column]:
        """All rows of a split of which all samples are at hand."""
        return self.expand(samples, 0, num_rows(samples) * self.count)

    def seeds(self, sample_ids: Sequence[str], view_B: NDArray[np.int32]) -> NDArray[np.int64]:
        """The seed of each view, 64 bits, as int64: of the set's seed, the sample and the view."""
        numbers = [
            hashlib.sha256(f"{self.seed}/{name}/{view}".encode()).digest()[:8]
            for name, view in zip(sample_ids, view_B.tolist(), strict=True)
        ]
        seeds = np.frombuffer(b"".join(numbers), "<i8").astype(np.int64)
        return np.where((view_B == 0) & self.original_first, np.int64(ORIGINAL), seeds)
