"""Streams of batches: from a label set's shards, or from the user's data.

The order is that of `storage.order`, and `storage.parts` says which samples of a batch are whose,
so the sequence of global batches is one and the same for any number of ranks and of workers. The
position is all the state there is, and it is global: any rank of any number of them goes on from
it. Batches run on over windows. The last batch of an epoch is smaller where the batch size does not
divide the number of samples; of it some ranks may get a stand-in that counts nowhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from storage.errors import StoreError
from storage.parts import Part
from storage.rows import Rows, concatenate, num_rows, part
from tasks.background import Ahead
from tasks.collate import collate
from tasks.loader import Loader, ThreadLoader
from tasks.loader_processes import ProcessLoader
from tasks.nn.batch import Batch
from tasks.sources import Source

DIGEST = "digest"
SEED = "seed"
WINDOW = "window"
EPOCH = "epoch"
CONSUMED = "consumed"

_BATCHES_AHEAD: Final = 2


@dataclass
class Stream:
    """Batches of a source, epoch after epoch.

    Iterating gives the batches from the position to the end of the epoch, and then the next epoch
    begins. Reading runs ahead in threads, which end with the iteration, or in processes, which stay
    for the next epoch and end when the iteration is given up, with `close`, or with the stream.

    Attributes:
        source: what is read.
        batch_size: samples of a global batch.
        seed: another seed gives another order.
        window: row groups that are shuffled together.
        shuffle: without it, the stored order.
        rank: which part of each global batch is given: a contiguous one.
        world: how many parts there are; they differ by one sample at most.
        workers: processes that read ahead; 0 reads in a thread.
        epoch: the epoch of the position.
        consumed: how many samples of the epoch were given out, over all ranks.
    """

    source: Source
    batch_size: int
    seed: int = 0
    window: int = 16
    shuffle: bool = True
    rank: int = 0
    world: int = 1
    workers: int = 0
    epoch: int = field(default=0, init=False)
    consumed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._order = self.source.order(self.seed, self.window, shuffle=self.shuffle)
        self._part = Part(self.batch_size, self.rank, self.world)
        self._loader: Loader = (
            ProcessLoader(self.source, self.workers)
            if self.workers
            else ThreadLoader(self.source, self.window)
        )

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self._order.num_samples

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch, the last and smaller one counted; every rank gets as many."""
        return -(-self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """This rank's part of each batch from the position to the end of the epoch.

        Raises:
            IntegrityError: a shard is not what its record says, or is gone.
            StoreError: a worker process died.
        """
        left = self.num_samples - self.consumed
        try:
            with Ahead(self._batches(left), _BATCHES_AHEAD, "softlabel-stream") as batches:
                for size, batch in batches:
                    self.consumed += size
                    yield batch
        except BaseException:  # given up half-way, too
            if self.consumed < self.num_samples:
                self.close()
            raise
        self.epoch += 1
        self.consumed = 0

    def state(self) -> dict[str, Any]:
        """The position: after the last batch that was given out. The same on every rank."""
        return {**self._identity(), EPOCH: self.epoch, CONSUMED: self.consumed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a position, whatever number of ranks and workers it was taken with.

        Raises:
            StoreError: it belongs to other content, another seed or another window of shuffling.
        """
        for key, own in self._identity().items():
            if state.get(key) != own:
                raise StoreError(
                    f"this position belongs to the {key} {str(state.get(key))[:12]}, the stream "
                    f"has {str(own)[:12]}; start again from the first epoch"
                )
        if not 0 <= state[CONSUMED] <= self.num_samples:
            raise StoreError(
                f"this position is after {state[CONSUMED]} samples, an epoch has "
                f"{self.num_samples}; is it one of another split?"
            )
        self.epoch, self.consumed = int(state[EPOCH]), int(state[CONSUMED])

    def close(self) -> None:
        """End the worker processes, where there are any; iterating again starts them again."""
        self._loader.close()

    def _identity(self) -> dict[str, Any]:
        """What decides the order of the samples; a window of 0 is the stored order."""
        window = self.window if self.shuffle else 0
        return {DIGEST: self.source.digest, SEED: self.seed, WINDOW: window}

    def _batches(self, left: int) -> Iterator[tuple[int, Batch]]:
        """This rank's part of each batch of what is left of the epoch, and each batch's size."""
        order = self._order.windows(self.epoch, skip=self.consumed)
        with contextlib.closing(self._loader.rows(self._part.windows(order, left))) as windows:
            waiting: Rows = {}
            place = count = 0
            for size in self._part.batches(left):
                first, last = self._part.bounds(size)
                pieces: list[Rows] = []
                missing = last - first
                while missing:
                    if place == count:
                        waiting = next(windows)
                        place, count = 0, num_rows(waiting)
                    stop = min(place + missing, count)
                    pieces.append(part(waiting, place, stop))
                    missing -= stop - place
                    place = stop
                batch = self._collated(concatenate(pieces))
                yield size, batch.emptied() if self._part.is_stand_in(size) else batch

    def _collated(self, rows: Rows) -> Batch:
        source = self.source
        return collate(rows, source.temperatures, source.drawn_at, augment=source.augment)
