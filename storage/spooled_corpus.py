"""A corpus whose samples lie in files on the local disk, ready to be read."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.corpus import Corpus
from storage.errors import StoreError
from storage.forms import ColumnForm
from storage.rows import Array, Column, Ragged, Rows, concatenate, is_text, part
from storage.schema import LABEL
from storage.scratch import Scratch
from storage.spec import CorpusForm
from storage.spool import SpoolFile, SpoolReader


class SpooledCorpus(Corpus):
    """The samples of some spools, one for each split.

    A copy that went through pickle reads the same files, and does not remove them.
    """

    def __init__(
        self,
        form: CorpusForm,
        files: Mapping[str, SpoolFile],
        columns: Mapping[str, ColumnForm],
        num_labels: int,
        class_names: tuple[str, ...] | None = None,
        label_order: NDArray[np.int64] | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        """A corpus in `scratch`, which goes when it does.

        Args:
            form: what the data decide about a label set.
            files: the samples of each split.
            columns: what the samples have in each column.
            num_labels: one more than the largest hard label.
            class_names: those that the data gave.
            label_order: what each hard label in the files stands for; None for itself.
            scratch: the folder that holds the files.
        """
        samples = {split: file.rows for split, file in files.items()}
        super().__init__(form, samples, num_labels, class_names)
        self._files = dict(files)
        self._columns = dict(columns)
        self._label_order = label_order
        self._scratch = scratch
        self._begin()

    def _begin(self) -> None:
        self._readers: dict[tuple[str, tuple[str, ...]], SpoolReader] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process."""
        own = {"_readers", "_lock", "_scratch"}
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy that reads."""
        self.__dict__ |= state
        self._scratch = None
        self._begin()

    def columns(self, split: str) -> tuple[str, ...]:
        """The names of the columns of a split."""
        return tuple(self._columns)

    def read(
        self, split: str, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> dict[str, Column]:
        """The samples of a split from `start` to `stop`: all columns, or those named.

        Raises:
            StoreError: the scratch folder is gone.
        """
        names = tuple(columns or self._columns)
        stop = min(stop, self.samples[split])
        try:
            reader = self._reader(split, names)
            parts = [self._rows(batch, names) for batch in reader.read(start, stop)]
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"the scratch folder {self._files[split].path.parent} cannot be read: {error}; run "
                "it again"
            ) from error
        if not parts:
            return part(self.read(split, 0, 1, names), 0, 0)
        return concatenate(parts)

    def close(self) -> None:
        """Remove the files, if they are this object's."""
        super().close()
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        if self._scratch is not None:
            self._scratch.remove()

    def _reader(self, split: str, columns: tuple[str, ...]) -> SpoolReader:
        with self._lock:
            if (split, columns) not in self._readers:
                self._readers[split, columns] = SpoolReader(self._files[split], columns)
            return self._readers[split, columns]

    def _rows(self, batch: pa.RecordBatch, names: Sequence[str]) -> Rows:
        rows = {name: _to_column(batch.column(name), self._columns[name]) for name in names}
        if LABEL in rows and self._label_order is not None:
            rows[LABEL] = self._label_order[np.asarray(rows[LABEL])]
        return rows


def _to_column(array: pa.Array, form: ColumnForm) -> Column:
    if form.shape == () or is_text(np.empty(0, form.dtype)):
        return _numbers(array)
    values = _numbers(array.flatten())
    if form.shape is not None:
        return values.reshape(-1, *form.shape)
    return Ragged(values, np.asarray(array.value_lengths()).astype(np.int64))


def _numbers(array: pa.Array) -> Array:
    return np.asarray(array.to_numpy(zero_copy_only=False))
