"""Which sample comes when: a pure function of (digest, seed, epoch).

Row groups are permuted, then rows within a window of row groups. Nothing is drawn from a
generator, so no state has to be saved and the order does not change with a library's version:
places are sorted by a hash of theirs. Memory grows with the number of row groups, not of samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.rows import by_part


@dataclass(frozen=True)
class Window:
    """Row groups that are read together.

    Attributes:
        groups: places of the row groups, in the order in which they are joined.
        sizes: rows of each of them.
        rows: which of the joined rows come, and in which order; int64, each at most once.
        again: row groups of which other rows may come in the next window.
    """

    groups: tuple[int, ...]
    sizes: tuple[int, ...]
    rows: NDArray[np.int64]
    again: frozenset[int] = frozenset()

    def only(self, rows: NDArray[np.int64]) -> Window:
        """The same with fewer rows: row groups that none of them lies in are left out."""
        ends = np.cumsum(self.sizes)
        group_of = np.searchsorted(ends, rows, side="right")
        wanted = np.zeros(len(self.sizes), np.bool_)
        wanted[group_of] = True
        left_out = np.cumsum(np.where(wanted, 0, self.sizes))
        kept = np.flatnonzero(wanted).tolist()
        return Window(
            tuple(self.groups[place] for place in kept),
            tuple(self.sizes[place] for place in kept),
            rows - left_out[group_of],
            self.again,
        )

    def chosen(self) -> list[NDArray[np.int64]]:
        """For each row group, which of its rows come, in their stored order."""
        return [chosen for chosen, _ in by_part(self.sizes, self.rows)]

    def among_chosen(self) -> NDArray[np.int64]:
        """The order of the rows, where only those that come are joined."""
        if len(self.rows) == sum(self.sizes):
            return self.rows
        places = np.empty_like(self.rows)
        places[np.argsort(self.rows)] = np.arange(len(self.rows))
        return places


class SampleOrder(Protocol):
    """Samples in an order, epoch after epoch."""

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""

    def windows(self, epoch: int, skip: int = 0) -> Iterator[Window]:
        """The windows of an epoch; the first `skip` samples are left out without being read."""


@dataclass(frozen=True)
class Order:
    """The order of one data set's samples.

    Attributes:
        digest: identity of the content that is ordered.
        group_sizes: rows of each row group.
        seed: another seed gives another order.
        window: how many row groups are shuffled together.
        shuffle: without it, the stored order.
    """

    digest: str
    group_sizes: tuple[int, ...]
    seed: int
    window: int
    shuffle: bool = True

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return sum(self.group_sizes)

    def windows(self, epoch: int, skip: int = 0) -> Iterator[Window]:
        """The windows of an epoch; the first `skip` samples are left out without being read."""
        groups = self._permutation(len(self.group_sizes), epoch, "groups")
        for place, start in enumerate(range(0, len(groups), self.window)):
            chosen = tuple(int(group) for group in groups[start : start + self.window])
            sizes = tuple(self.group_sizes[group] for group in chosen)
            size = sum(sizes)
            if skip >= size:
                skip -= size
                continue
            rows = self._permutation(size, epoch, f"window {place}")
            yield Window(chosen, sizes, rows[skip:])
            skip = 0

    def _permutation(self, length: int, epoch: int, purpose: str) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(length, dtype=np.int64)
        text = f"{self.digest}/{self.seed}/{epoch}/{purpose}"
        return permutation(length, text)


def permutation(length: int, key: str) -> NDArray[np.int64]:
    """The numbers below `length` in an order that `key` alone decides."""
    start = np.frombuffer(hashlib.sha256(key.encode()).digest()[:8], np.uint64)
    return np.argsort(mix64(np.arange(length, dtype=np.uint64) + start), kind="stable")


def position_keys(
    sample_ids: Sequence[str], lengths_B: NDArray[np.int64], seed: int
) -> NDArray[np.uint64]:
    """A key for each position, sample by sample: of the seed, the sample's id and the place."""
    starts = np.array(
        [
            int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")
            for name in sample_ids
        ],
        np.uint64,
    )
    within = np.arange(lengths_B.sum()) - np.repeat(np.cumsum(lengths_B) - lengths_B, lengths_B)
    with np.errstate(over="ignore"):
        return np.repeat(starts, lengths_B) + within.astype(np.uint64)


def mix64(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijective mix of 64 bits (Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        mixed = value * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
