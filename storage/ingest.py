"""From the user's data to a corpus: read, checked and divided into splits; and the index of it.

The data are passed over once, a chunk at a time, and written to a scratch folder as the samples
that they become; all later reading is from there. So the memory that it takes does not grow with
the data, but for 8 bytes a sample while they are read. The index (which samples make which shard,
and their digests) is kept in the store, so that a finished pipeline looks at files and does not
read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage import layout
from storage.class_ids import ClassNames
from storage.corpus import Corpus, CorpusIndex
from storage.errors import DataError, IntegrityError
from storage.files import Folder
from storage.forms import Forms, agreed, input_specs
from storage.identity import fingerprint
from storage.input_options import IMAGE
from storage.meaning import Meaning
from storage.options import DataOptions
from storage.preparation import Chunk, Preparation
from storage.raw_data import data_stamps, raw_chunks
from storage.records import parse, read_record, write_record
from storage.rows import Rows, num_rows, values_of
from storage.samples import ids_of, prepare
from storage.schema import LABEL, SAMPLE_ID
from storage.scratch import Scratch
from storage.spec import CorpusForm
from storage.splitting import divide, names_of_splits
from storage.spool import SpoolWriter
from storage.spooled_corpus import SpooledCorpus
from storage.viewed_corpus import with_views

CODE_VERSION = 1
"""Raised by hand when the same data come to other rows or digests."""


def open_corpus(
    options: DataOptions, folder: Path, preparation: Preparation | None = None
) -> Corpus:
    """Read and check the data that `options` name; paths are relative to `folder`.

    Args:
        options: what the recipe says of the data.
        folder: the recipe's.
        preparation: what makes samples of them; without one, the columns are numbers already.

    Raises:
        DataError: a file, column, label, id, split or input is not as the recipe says.
        RecipeError: the inputs or the task do not allow a step of `data.augment`.
        StoreError: the scratch folder cannot be written.
    """
    scratch = Scratch()
    try:
        work = _Ingest(options, preparation, scratch)
        for split, chunks in raw_chunks(options, folder).items():
            work.read(split, chunks)
        return with_views(work.finish(), options)
    except BaseException:
        scratch.remove()
        raise


def corpus_index(
    store: Folder,
    options: DataOptions,
    folder: Path,
    positions_per_shard: int,
    opened: Callable[[], Corpus],
    preparation: Preparation | None = None,
    suffixes: Sequence[str] = (),
) -> CorpusIndex:
    """The index of the user's data: from the store where the data did not change since.

    Args:
        store: keeps it.
        options: what the recipe says of the data.
        folder: the recipe's, which paths are relative to.
        positions_per_shard: how the splits are cut.
        opened: gives the corpus, where it has to be read.
        preparation: what makes samples of it.
        suffixes: of the files that are samples themselves.
    """
    stamps = data_stamps(options, folder, suffixes)
    if None in stamps.values():
        return opened().index(positions_per_shard)
    key = {
        "code_version": CODE_VERSION,
        "data": options.identity(),
        "stamps": stamps,
        "shard": positions_per_shard,
    }
    if preparation is not None:
        key["preparation"] = preparation.identity()
    name = layout.corpus_index(fingerprint(key))
    try:
        if store.exists(name):
            return parse(CorpusIndex, read_record(store, name), store.url_of(name))
    except IntegrityError:
        store.delete(name)
    index = opened().index(positions_per_shard)
    write_record(store, name, index)
    return index


class _Ingest:
    """One pass over the data, source after source."""

    def __init__(
        self, options: DataOptions, preparation: Preparation | None, scratch: Scratch
    ) -> None:
        self._options = options
        self._preparation = preparation
        self._scratch = scratch
        self._class_names = ClassNames(options.class_names)
        self._writers: dict[str, SpoolWriter] = {}
        self._forms: dict[str, Forms] = {}
        self._ids: list[NDArray[np.int64]] = []
        self._num_labels = (preparation.num_classes if preparation else None) or 0

    def read(self, split: str, chunks: Iterator[Chunk]) -> None:
        """The samples of a source, which belong to `split`, or to several where it is ""."""
        options = self._options
        inputs = options.inputs or (IMAGE,)
        if self._preparation is not None:
            chunks = self._preparation(_with_ids(chunks, options, split))
            inputs = self._preparation.inputs
        is_prepared = self._preparation is not None
        meaning = Meaning(options, split, inputs, self._class_names, is_prepared)
        forms = self._forms[split] = Forms()
        first_row = 0
        for chunk in chunks:
            rows = prepare(chunk, meaning, first_row)
            if num_rows(rows) == 0:
                continue
            first_row += num_rows(rows)
            forms.add(rows)
            self._note(rows)
            for name, some in divide(rows, chunk, meaning):
                self._write(name, some)

    def finish(self) -> SpooledCorpus:
        """The corpus of all samples."""
        if not self._writers:
            raise DataError("data.source: there are no samples in what it names")
        names = names_of_splits(self._writers, self._options)
        for name in names:
            if name not in self._writers:
                raise DataError(f"data: the split {name!r} is empty; change data.splits")
        columns = agreed(self._forms)
        found = self._class_names.found
        self._require_as_many(found)
        task = self._options.task
        corpus = SpooledCorpus(
            CorpusForm(task, input_specs(columns), LABEL in columns, tuple(names)),
            {name: self._writers[name].finish() for name in names},
            columns,
            len(found) if found else self._num_labels,
            found,
            self._class_names.order,
            self._scratch,
        )
        _require_unique_ids(corpus, self._ids)
        return corpus

    def _note(self, rows: Rows) -> None:
        if self._options.id is not None or self._preparation is not None:
            # Within this process a hash of a text is its name, in 8 bytes.
            self._ids.append(np.fromiter(map(hash, values_of(rows[SAMPLE_ID])), np.int64))
        if LABEL in rows:
            highest = int(values_of(rows[LABEL]).max(initial=-1))
            self._num_labels = max(self._num_labels, highest + 1)

    def _write(self, split: str, rows: Rows) -> None:
        if num_rows(rows) == 0:
            return
        if split not in self._writers:
            self._writers[split] = SpoolWriter(self._scratch.path / f"{split}.arrow")
        self._writers[split].append(rows)

    def _require_as_many(self, names: tuple[str, ...] | None) -> None:
        """The names that were found are as many as the recipe says that there are classes."""
        said = self._options.num_classes
        if names is not None and said is not None and len(names) != said:
            raise DataError(
                f"data.classes: expected the number of names in {self._options.label!r}, which is "
                f"{len(names)}, got {said}; name the classes in their order in data.classes"
            )


def _with_ids(chunks: Iterator[Chunk], options: DataOptions, split: str) -> Iterator[Chunk]:
    """Chunks with `sample_id`: as it is, of the recipe's column, or the numbers of the rows."""
    first_row = 0
    for chunk in chunks:
        given = SAMPLE_ID in chunk and not options.inputs
        ids = chunk[SAMPLE_ID] if given else ids_of(chunk, options.id, split, first_row)
        first_row += num_rows(chunk)
        yield {**chunk, SAMPLE_ID: ids}


def _require_unique_ids(corpus: Corpus, hashes: Iterable[NDArray[np.int64]]) -> None:
    ordered = np.sort(np.concatenate([np.empty(0, np.int64), *hashes]))
    same = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not same:
        return
    counts = Counter(
        name
        for split in corpus.samples
        for rows in corpus.parts(split, [SAMPLE_ID])
        for name in values_of(rows[SAMPLE_ID])
        if hash(name) in same
    )
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise DataError(
            f"data.id: {len(twice)} ids are there more than once, such as {twice[0]!r}; ids must "
            "be unique over all splits"
        )
