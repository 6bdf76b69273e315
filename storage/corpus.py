"""The corpus: the user's samples by split, and the digests that name their content.

A corpus is read a range of samples at a time, so that work on it takes the memory of a range and
not of the data. What it holds is checked before; its index says which samples make which shard.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from storage.augment_options import AugmentStep
from storage.options import Task
from storage.row_digest import digest_of_parts, digest_of_rows
from storage.rows import Column, Ragged, Rows, num_rows, part, values_of
from storage.schema import LABEL, MASK
from storage.spec import CorpusForm, InputSpec, StoredModel
from storage.writer import ranges

ROWS_OF_GROUP: Final = 1024
"""Samples that are read together in passing, and shuffled together where models are fitted."""


class ShardSamples(StoredModel):
    """The samples of one shard: their place in the split, and the digest of what they hold."""

    start: int
    rows: int
    positions: int
    digest: str


class CorpusIndex(StoredModel):
    """What a corpus holds, without holding it.

    Attributes:
        shards: for each split, its samples cut into shards.
        digests: for each split, the digest of all its samples.
        samples: for each split, how many samples it has.
        num_labels: one more than the largest hard label; 0 without labels.
        class_names: those that the data themselves give, in the order of the hard labels.
        views: rows of each training sample, each of which counts as a sample here.
        augment: the steps that make views.
    """

    task: Task
    inputs: tuple[InputSpec, ...]
    has_label: bool
    shards: dict[str, tuple[ShardSamples, ...]]
    digests: dict[str, str]
    samples: dict[str, int]
    num_labels: int
    class_names: tuple[str, ...] | None = None
    views: PositiveInt = 1
    augment: tuple[AugmentStep, ...] = ()

    @property
    def form(self) -> CorpusForm:
        """What the data alone decide about a label set."""
        splits = tuple(self.samples)
        return CorpusForm(self.task, self.inputs, self.has_label, splits, self.views, self.augment)


class Corpus(ABC):
    """The user's samples by split, as numpy columns named as in a shard.

    A subclass says where they come from. It gives `read`, and where the content has a digest of
    its own, such as that of files which need not be decoded for it, `digest` as well. It can be
    pickled, so that child processes read too; what it reads from is the opener's to remove.

    Rows may hold the column `bad`: why a sample could not be made, or "". The inputs of such a
    sample are placeholders.

    Attributes:
        form: what the data decide about a label set.
        samples: for each split, how many samples it has.
        num_labels: one more than the largest hard label; 0 without labels.
        class_names: those that the data themselves give, in the order of the hard labels.
        is_closed: whether it can no longer be read.
    """

    def __init__(
        self,
        form: CorpusForm,
        samples: Mapping[str, int],
        num_labels: int,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        self.form = form
        self.samples = dict(samples)
        self.num_labels = num_labels
        self.class_names = class_names
        self.is_closed = False

    def close(self) -> None:
        """Remove what was made to read from; nothing can be read afterwards."""
        self.is_closed = True

    @abstractmethod
    def read(
        self, split: str, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> dict[str, Column]:
        """The samples of a split from `start` to `stop`: all columns, or those named.

        Costs the memory of these samples. Threads may read at the same time.
        """

    @abstractmethod
    def columns(self, split: str) -> tuple[str, ...]:
        """The names of the columns of a split."""

    def digest(self, split: str, start: int, stop: int) -> str:
        """The sha256 over ids and content of some samples."""
        return digest_of_rows(self.read(split, start, stop))

    def digest_of_split(self, split: str) -> str:
        """The same over all samples of a split, read part by part."""

        def read(name: str) -> Iterator[Column]:
            for rows in self.parts(split, [name]):
                yield rows[name]

        return digest_of_parts(self.columns(split), self.samples[split], read)

    def parts(
        self, split: str, columns: Sequence[str] | None = None, size: int = ROWS_OF_GROUP
    ) -> Iterator[dict[str, Column]]:
        """All samples of a split, `size` at a time."""
        count = self.samples[split]
        for start in range(0, count, size):
            yield self.read(split, start, min(start + size, count), columns)

    def shards(self, positions_per_shard: int) -> dict[str, tuple[ShardSamples, ...]]:
        """Each split cut into shards, with the digests of their samples."""
        return {split: tuple(self._cut(split, positions_per_shard)) for split in self.samples}

    def index(self, positions_per_shard: int) -> CorpusIndex:
        """What there is: shards of at most so many positions, and digests."""
        return CorpusIndex(
            task=self.form.task,
            inputs=self.form.inputs,
            has_label=self.form.has_label,
            shards=self.shards(positions_per_shard),
            digests={split: self.digest_of_split(split) for split in self.samples},
            samples=self.samples,
            num_labels=self.num_labels,
            class_names=self.class_names,
            views=self.form.views,
            augment=self.form.augment,
        )

    def _cut(self, split: str, positions_per_shard: int) -> Iterator[ShardSamples]:
        positions_B = self._positions(split)
        for start, stop in ranges(positions_B, positions_per_shard):
            yield ShardSamples(
                start=start,
                rows=stop - start,
                positions=int(positions_B[start:stop].sum()),
                digest=self.digest(split, start, stop),
            )

    def _positions(self, split: str) -> NDArray[np.int64]:
        """Positions of each sample of a split: 8 bytes a sample."""
        if MASK not in self.columns(split):
            return np.ones(self.samples[split], np.int64)
        return np.concatenate([positions_of(rows) for rows in self.parts(split, [MASK])])


class MemoryCorpus(Corpus):
    """Samples that are at hand as columns."""

    def __init__(
        self,
        form: CorpusForm,
        splits: Mapping[str, Rows],
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        samples = {split: num_rows(rows) for split, rows in splits.items()}
        super().__init__(form, samples, max(map(_num_labels, splits.values())), class_names)
        self.splits = splits

    def read(
        self, split: str, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> dict[str, Column]:
        """The samples of a split from `start` to `stop`: all columns, or those named."""
        rows = self.splits[split]
        return part({name: rows[name] for name in columns or rows}, start, stop)

    def columns(self, split: str) -> tuple[str, ...]:
        """The names of the columns of a split."""
        return tuple(self.splits[split])


def positions_of(rows: Rows) -> NDArray[np.int64]:
    """Positions of each sample: those of its block, or one."""
    mask = rows.get(MASK)
    return mask.lengths_B if isinstance(mask, Ragged) else np.ones(num_rows(rows), np.int64)


def _num_labels(rows: Rows) -> int:
    if LABEL not in rows:
        return 0
    return int(values_of(rows[LABEL]).max(initial=-1)) + 1
