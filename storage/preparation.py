"""What turns the user's raw columns into those that models get: tokens, pixels, waveforms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from storage.identity import Json
from storage.rows import Column

SPLIT: Final = "split"
"""The column of a preparation that holds the split of each of its samples."""
DOCUMENTS: Final = "documents"
"""The column of a preparation that holds, for each token of a block, the number of its document."""
Chunk = dict[str, Column]
"""Some samples in the order of the data: columns by the names that the data give them.

An array [B, ...] where all samples have one shape, a `Ragged` where their lengths differ. No chunk
is empty, and memory holds many of them.
"""


class Preparation(Protocol):
    """Makes the samples of a corpus from chunks of the user's raw columns.

    It is called once for each source (a file, several files, or a target: one for all splits, or
    with `splits.file` one for each), and sees its chunks in their order: the columns that the
    recipe names, and `sample_id`. It may give another number of samples than it got, such as
    blocks cut from texts, in chunks of any size. A chunk that it gives holds

    - the columns named by `inputs`, as numbers: these become the inputs, in that order;
    - what the recipe names for `data.label`, `data.mask`, `data.id` and `data.splits.column`;
    - where it likes, `mask`: which positions count, where the recipe names no column for it;
    - where it likes, `sample_id`: the ids of its samples, which replace those of `data.id`;
    - where it likes, `label`: of each sample or position, where the recipe names no column for it;
    - where it likes, `split`: of each sample, where the recipe divides by a hash of the id;
    - where it likes, `documents`: for each token of a block, which of the block's documents it is
      of; a causal language model predicts nothing across their border;
    - where it likes, `bad`: an object array of text that says why a sample could not be made, ""
      where nothing is wrong. The inputs of a bad sample are placeholders of the usual shape.

    All chunks have the same columns. What it raises ends the work, so an error of the user's data
    is a `DataError`.
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that it gives, as models get them."""

    @property
    def num_classes(self) -> int | None:
        """The size of the vocabulary that the samples are of; None where classes are others."""

    def identity(self) -> Json:
        """All that decides what it makes of the same data: part of the corpus's identity."""

    def __call__(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The samples that `chunks` become."""
