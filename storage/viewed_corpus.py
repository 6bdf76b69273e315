"""A corpus whose training samples have views: each is several rows, told apart by their seeds.

Everything else is as in the corpus below it, and reading costs no more than reading that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from storage.augment_options import require_fitting
from storage.corpus import Corpus
from storage.identity import canonical_json, digest_of_bytes
from storage.options import TRAIN, DataOptions
from storage.rows import Column
from storage.schema import SAMPLE_ID, VIEW, VIEW_SEED
from storage.views import Views


def with_views(corpus: Corpus, options: DataOptions) -> Corpus:
    """The corpus with the views that `options` ask for; itself where they ask for none.

    Raises:
        RecipeError: its inputs or its task do not allow a step of `data.augment`.
    """
    views = Views.of(options, TRAIN)
    if views is None:
        return corpus
    require_fitting(options.augment, corpus.form.inputs, corpus.form.task)
    return ViewedCorpus(corpus, options, views)


class ViewedCorpus(Corpus):
    """Row r of the training split is view r % n of sample r // n of the corpus below."""

    def __init__(self, corpus: Corpus, options: DataOptions, views: Views) -> None:
        form = replace(corpus.form, views=views.count, augment=options.augment)
        samples = {
            split: count * views.count if split == TRAIN else count
            for split, count in corpus.samples.items()
        }
        super().__init__(form, samples, corpus.num_labels, corpus.class_names)
        self._corpus = corpus
        self._views = views

    def close(self) -> None:
        """Close the corpus below."""
        self._corpus.close()
        super().close()

    def read(
        self, split: str, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> dict[str, Column]:
        """The rows of a split from `start` to `stop`: all columns, or those named."""
        if split != TRAIN:
            return self._corpus.read(split, start, stop, columns)
        wanted = None
        if columns is not None:
            # The ids are what the seeds are made of.
            below = [name for name in columns if name not in (VIEW, VIEW_SEED)]
            wanted = list(dict.fromkeys([*below, SAMPLE_ID]))
        samples = self._corpus.read(split, *self._views.samples(start, stop), wanted)
        rows = self._views.expand(samples, start, stop)
        return {name: rows[name] for name in columns or rows}

    def columns(self, split: str) -> tuple[str, ...]:
        """The names of the columns of a split."""
        below = self._corpus.columns(split)
        return (*below, VIEW, VIEW_SEED) if split == TRAIN else below

    def digest(self, split: str, start: int, stop: int) -> str:
        """The sha256 over the samples that some rows are views of, and over which views."""
        if split != TRAIN:
            return self._corpus.digest(split, start, stop)
        first, last = self._views.samples(start, stop)
        before = first * self._views.count
        places = [start - before, stop - before]
        return self._of_views(self._corpus.digest(split, first, last), places)

    def digest_of_split(self, split: str) -> str:
        """The same over all rows of a split."""
        found = self._corpus.digest_of_split(split)
        return found if split != TRAIN else self._of_views(found, [])

    def _of_views(self, digest: str, places: list[int]) -> str:
        views = self._views
        content = [digest, places, views.count, views.seed, views.original_first]
        return digest_of_bytes(canonical_json(content))

    def _positions(self, split: str) -> NDArray[np.int64]:
        positions_B = self._corpus._positions(split)
        return np.repeat(positions_B, self._views.count) if split == TRAIN else positions_B
