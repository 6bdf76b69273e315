"""What streams read from: a label set's shards, or the user's data, row group by row group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from storage import schema
from storage.augment_options import AugmentStep
from storage.corpus import ROWS_OF_GROUP, Corpus
from storage.errors import RecipeError
from storage.features import FEATURE_COLUMN
from storage.options import AnyTemperature, Keep
from storage.order import Order, SampleOrder
from storage.reader import LabelSet
from storage.rows import Rows
from storage.spec import LabelSetSpec


class Source(Protocol):
    """Row groups that can be read in any order."""

    @property
    def digest(self) -> str:
        """Identity of the content."""

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Rows of each row group."""

    @property
    def temperatures(self) -> tuple[AnyTemperature, ...]:
        """The stored temperatures; none where there are no soft labels."""

    @property
    def drawn_at(self) -> float | None:
        """Of a sampled set, the temperature at which it was drawn."""

    @property
    def augment(self) -> tuple[AugmentStep, ...]:
        """The steps that make views of the inputs; none where rows hold no views."""

    def read(self, group: int) -> Rows:
        """The rows of one group."""

    def order(self, seed: int, window: int, *, shuffle: bool) -> SampleOrder:
        """The order of the samples: see `storage.order.Order`."""


class LabelSource:
    """One split of a label set, with those of its stored features that are wanted."""

    def __init__(self, labels: LabelSet, split: str, features: Sequence[str] = ()) -> None:
        """Look at what there is.

        Args:
            labels: the label set.
            split: which split.
            features: names of `storage.features`.

        Raises:
            MissingProductError: there is no such split.
            RecipeError: a feature is not stored.
        """
        require_features(labels.spec, split, features)
        self.labels = labels
        self.spec = labels.spec
        self.split = split
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
        unused = {*schema.STATISTICS, *labels.spec.features_of(split)}
        unused -= {f"{FEATURE_COLUMN}{name}" for name in features}
        self.columns = [name for name in labels.columns(split) if name not in unused]

    def read(self, group: int) -> Rows:
        """The rows of one row group, its shard's checksum having been checked."""
        shard, place = self._groups[group]
        return self.labels.read(shard, place, self.columns)

    def order(self, seed: int, window: int, *, shuffle: bool) -> Order:
        """The order of the samples."""
        return Order(self.digest, self.group_sizes, seed, window, shuffle)


def require_features(spec: LabelSetSpec, split: str, names: Sequence[str]) -> None:
    """Refuse features that a split does not hold.

    Raises:
        RecipeError: naming those that it holds.
    """
    stored = [feature.feature for feature in spec.features_of(split).values()]
    for name in names:
        if name not in stored:
            raise RecipeError(
                f"labels.features: the split {split!r} holds no {name!r}; it holds: "
                f"{', '.join(stored) or 'none'}"
            )


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
        self.temperatures: tuple[AnyTemperature, ...] = ()
        self.drawn_at: float | None = None

    def read(self, group: int) -> Rows:
        """The rows of one group."""
        start = group * ROWS_OF_GROUP
        return self._corpus.read(self._split, start, start + self.group_sizes[group])

    def order(self, seed: int, window: int, *, shuffle: bool) -> Order:
        """The order of the samples."""
        return Order(self.digest, self.group_sizes, seed, window, shuffle)
