"""Streams of batches: from a label set's shards, or from the user's data.

The order is that of `storage.order`, so the position {digest, seed, epoch, samples consumed} is
all the state there is. Batches run on over windows; the last batch of an epoch is smaller where
the batch size does not divide the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storage.errors import StoreError
from storage.order import Order, Window
from storage.rows import Rows, concatenate, take
from tasks.collate import collate
from tasks.nn.batch import Batch
from tasks.sources import Source

DIGEST = "digest"
SEED = "seed"
EPOCH = "epoch"
CONSUMED = "consumed"


@dataclass
class Stream:
    """Batches of a source, epoch after epoch.

    Attributes:
        source: what is read.
        batch_size: samples of a batch.
        seed: another seed gives another order.
        window: row groups that are shuffled together.
        shuffle: without it, the stored order.
    """

    source: Source
    batch_size: int
    seed: int = 0
    window: int = 16
    shuffle: bool = True
    epoch: int = field(default=0, init=False)
    consumed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        sizes = self.source.group_sizes
        self._order = Order(self.source.digest, sizes, self.seed, self.window, self.shuffle)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch, the last and smaller one counted."""
        return -(-self._order.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the position to the end of the epoch; then the next epoch begins."""
        parts: list[Rows] = []
        waiting = 0
        for window in self._order.windows(self.epoch, skip=self.consumed):
            parts.append(self._read(window))
            waiting += len(window.rows)
            if waiting < self.batch_size:
                continue
            rows = concatenate(parts)
            whole = waiting - waiting % self.batch_size
            for start in range(0, whole, self.batch_size):
                yield self._next(rows, start, start + self.batch_size)
            parts = [take(rows, np.arange(whole, waiting))]
            waiting -= whole
        if waiting:
            yield self._next(concatenate(parts), 0, waiting)
        self.epoch += 1
        self.consumed = 0

    def state(self) -> dict[str, Any]:
        """The position: after the last batch that was given out."""
        return {
            DIGEST: self.source.digest,
            SEED: self.seed,
            EPOCH: self.epoch,
            CONSUMED: self.consumed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a position.

        Raises:
            StoreError: it belongs to other content or another seed.
        """
        for key, own in ((DIGEST, self.source.digest), (SEED, self.seed)):
            if state[key] != own:
                raise StoreError(
                    f"this position belongs to the {key} {str(state[key])[:12]}, the data have "
                    f"{str(own)[:12]}; start again from the first epoch"
                )
        self.epoch, self.consumed = int(state[EPOCH]), int(state[CONSUMED])

    def _next(self, rows: Rows, start: int, stop: int) -> Batch:
        self.consumed += stop - start
        some = take(rows, np.arange(start, stop))
        source = self.source
        return collate(some, source.temperatures, source.drawn_at, augment=source.augment)

    def _read(self, window: Window) -> Rows:
        joined = concatenate([self.source.read(group) for group in window.groups])
        return take(joined, window.rows)
