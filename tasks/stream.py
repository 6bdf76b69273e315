"""Streams of batches: from a label set's shards, or from the user's data.

The order is that of `storage.order`, so the position {digest, seed, epoch, samples consumed} is
all the state there is. Batches run on over windows; the last batch of an epoch is smaller where
the batch size does not divide the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from storage import schema
from storage.augment_options import AugmentStep
from storage.corpus import ROWS_OF_GROUP, Corpus, positions_of
from storage.errors import StoreError
from storage.options import Keep
from storage.order import Order, Window
from storage.reader import LabelSet
from storage.rows import (
    INPUT,
    Array,
    Column,
    Ragged,
    Rows,
    concatenate,
    lengths_of,
    num_rows,
    take,
)
from tasks.nn.batch import Batch
from tasks.views import augmented

DIGEST = "digest"
SEED = "seed"
EPOCH = "epoch"
CONSUMED = "consumed"


class Source(Protocol):
    """Row groups that can be read in any order."""

    @property
    def digest(self) -> str:
        """Identity of the content."""

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Rows of each row group."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The stored temperatures; none where there are no soft labels."""

    @property
    def drawn_at(self) -> float | None:
        """Of a sampled set, the temperature at which it was drawn."""

    @property
    def augment(self) -> tuple[AugmentStep, ...]:
        """The steps that make views of the inputs; none where rows hold no views."""

    def read(self, group: int) -> Rows:
        """The rows of one group."""


class LabelSource:
    """One split of a label set."""

    def __init__(self, labels: LabelSet, split: str) -> None:
        self.labels = labels
        shards = labels.shards(split)
        self._groups = [
            (shard, place) for shard in shards for place in range(len(shard.row_groups))
        ]
        self.group_sizes = tuple(size for shard in shards for size in shard.row_groups)
        self.digest = labels.digest
        self.temperatures = labels.spec.temperatures
        self.augment = labels.spec.augment_of(split)
        selection = labels.spec.selections[split]
        self.drawn_at = selection.temperature if selection.keep is Keep.SAMPLE else None
        self._columns = [name for name in labels.columns(split) if name not in schema.STATISTICS]

    def read(self, group: int) -> Rows:
        """The rows of one row group, its shard's checksum having been checked."""
        shard, place = self._groups[group]
        return self.labels.read(shard, place, self._columns)


class CorpusSource:
    """One split of a corpus, with hard labels only."""

    def __init__(self, corpus: Corpus, split: str) -> None:
        self._corpus = corpus
        self._split = split
        count = corpus.samples[split]
        starts = range(0, count, ROWS_OF_GROUP)
        self.group_sizes = tuple(min(ROWS_OF_GROUP, count - start) for start in starts)
        self.digest = corpus.digest_of_split(split)
        self.augment = corpus.form.augment_of(split)
        self.temperatures: tuple[float, ...] = ()
        self.drawn_at: float | None = None

    def read(self, group: int) -> Rows:
        """The rows of one group."""
        start = group * ROWS_OF_GROUP
        return self._corpus.read(self._split, start, start + self.group_sizes[group])


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


def collate(
    rows: Rows,
    temperatures: Sequence[float],
    drawn_at: float | None = None,
    padded_length: int | None = None,
    augment: Sequence[AugmentStep] = (),
) -> Batch:
    """Rows as tensors; inputs are padded with zeros, and positions of padding do not count.

    Samples that could not be made do not count either. Where rows hold views, the inputs are those
    of the views: whoever runs a model goes through here, so that teachers and students see the
    same.

    Args:
        rows: of a label set, or of a corpus.
        temperatures: those of the rest.
        drawn_at: of a sampled set, the temperature at which it was drawn.
        padded_length: L of the batch where lengths vary, at least that of the longest sample; by
            default just that.
        augment: the steps that make views, as the specification of the rows says.
    """
    rows = augmented(rows, augment)
    lengths_B = lengths_of(rows)
    input_length = None if lengths_B is None else int(lengths_B.max(initial=0))
    if input_length is not None and padded_length is not None:
        if padded_length < input_length:
            raise ValueError(f"samples of {input_length} values do not fit into {padded_length}")
        input_length = padded_length
    length = input_length if schema.MASK in rows else None
    count = num_rows(rows) * (length or 1)
    kept = schema.INDEX in rows
    label = (
        _positions(rows[schema.LABEL], length, schema.NO_LABEL) if schema.LABEL in rows else None
    )
    label_logit = (
        _positions(rows[schema.LABEL_LOGIT], length, 0.0) if schema.LABEL_LOGIT in rows else None
    )
    return Batch(
        inputs=tuple(
            _input(column, input_length) for name, column in rows.items() if name.startswith(INPUT)
        ),
        index_PK=_positions(rows[schema.INDEX], length, 0)
        if kept
        else torch.empty((count, 0), dtype=torch.int64),
        logit_PK=_positions(rows[schema.LOGIT], length, -np.inf) if kept else torch.empty(count, 0),
        rest_PT=_positions(rows[schema.REST], length, -np.inf) if kept else None,
        weight_PK=_shares(rows[schema.COUNT], length) if schema.COUNT in rows else None,
        label_P=torch.full((count,), schema.NO_LABEL) if label is None else label.long(),
        label_logit_P=label_logit,
        mask_P=_counting(rows, length, count),
        real_P=_real(rows, length),
        temperatures=tuple(temperatures),
        sample_ids=list(_samples(rows)),
        drawn_at=drawn_at,
    )


def _real(rows: Rows, length: int | None) -> Tensor:
    if length is None:
        return torch.ones(num_rows(rows), dtype=torch.bool)
    return _tensor(np.arange(length) < positions_of(rows)[:, None]).reshape(-1)


def _counting(rows: Rows, length: int | None, count: int) -> Tensor:
    """Which positions count: those of the mask, and none of a sample that could not be made."""
    counts_P = torch.ones(count, dtype=torch.bool)
    if schema.MASK in rows:
        counts_P = _positions(rows[schema.MASK], length, fill=False)
    if schema.BAD in rows:
        good_B = _tensor(np.asarray(rows[schema.BAD]) == "")
        counts_P = counts_P & good_B.repeat_interleave(length or 1)
    return counts_P


def _positions(column: Column, length: int | None, fill: float | bool) -> Tensor:
    if not isinstance(column, Ragged):
        return _tensor(column)
    assert length is not None
    block = column.padded(length, fill)
    return _tensor(block.reshape(-1, *block.shape[2:]))


def _shares(count: Column, length: int | None) -> Tensor:
    """The share of its position's draws that each entry has."""
    count_PK = _positions(count, length, 0).float()
    return count_PK / count_PK.sum(dim=1, keepdim=True).clamp(min=1.0)


def _input(column: Column, length: int | None) -> Tensor:
    if isinstance(column, Ragged):
        assert length is not None
        column = column.padded(length, 0)
    tensor = _tensor(column)
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _tensor(values: Array) -> Tensor:
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    values = np.ascontiguousarray(values)
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _samples(rows: Rows) -> Array:
    return np.asarray(rows[schema.SAMPLE_ID])
