"""From the user's data to a corpus: read, checked and divided into splits; and the index of it.

The index (which samples make which shard, and their digests) is kept in the store, so that a
finished pipeline looks at files and does not read them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import layout, sources
from storage.corpus import Corpus, CorpusIndex, MemoryCorpus, input_specs
from storage.errors import DataError, IntegrityError
from storage.files import Folder
from storage.identity import fingerprint
from storage.options import SPLIT_NAME_PATTERN, DataOptions
from storage.preparation import Preparation
from storage.records import parse, read_record, write_record
from storage.rows import Column, Ragged, Rows, num_rows, take
from storage.samples import as_ragged, prepare
from storage.schema import LABEL, SAMPLE_ID
from storage.spec import CorpusForm, InputSpec
from storage.viewed_corpus import with_views

_SPLIT_NAME = re.compile(SPLIT_NAME_PATTERN)

CODE_VERSION = 1
"""Raised by hand when the same data come to other rows or digests."""


def open_corpus(options: DataOptions, folder: Path) -> Corpus:
    """Read and check the data that `options` name; paths are relative to `folder`.

    Raises:
        DataError: a file, column, label, id, split or input is not as the recipe says.
        RecipeError: the inputs or the task do not allow a step of `data.augment`.
    """
    parts = _load_parts(options, folder)
    splits = {name: prepare(columns, options, name) for name, columns in parts.items()}
    if not options.splits.file:
        splits = _divide(splits[""], parts[""], options)
    splits = _of_one_form(splits)
    _require_unique_ids(splits)
    for name, rows in splits.items():
        if num_rows(rows) == 0:
            raise DataError(f"data: the split {name!r} is empty; change data.splits")
    first = next(iter(splits.values()))
    form = CorpusForm(options.task, input_specs(first), LABEL in first, tuple(splits))
    for name, rows in splits.items():
        specs = input_specs(rows)
        if specs != form.inputs:
            raise DataError(
                f"data.inputs: the split {name!r} holds {_said(specs)}, while the split "
                f"{form.splits[0]!r} holds {_said(form.inputs)}; make them the same"
            )
    return with_views(MemoryCorpus(form, splits), options)


def corpus_index(
    store: Folder,
    options: DataOptions,
    folder: Path,
    positions_per_shard: int,
    opened: Callable[[], Corpus],
    preparation: Preparation | None = None,
) -> CorpusIndex:
    """The index of the user's data: from the store where the data did not change since.

    Args:
        store: keeps it.
        options: what the recipe says of the data.
        folder: the recipe's, which paths are relative to.
        positions_per_shard: how the splits are cut.
        opened: gives the corpus, where it has to be read.
        preparation: what makes samples of it.
    """
    urls = _sources(options, folder)
    stamps = {split: sources.stamp(url, options.version) for split, url in urls.items()}
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


def _sources(options: DataOptions, folder: Path) -> dict[str, str]:
    named = options.source if isinstance(options.source, dict) else {"": options.source}
    return {split: sources.resolve(source, folder) for split, source in named.items()}


def _load_parts(options: DataOptions, folder: Path) -> dict[str, dict[str, Column]]:
    extra = (options.label, options.mask, options.id, options.splits.column)
    wanted = [*options.inputs, *(name for name in extra if name is not None)]
    return {
        split: sources.load_columns(source, dict.fromkeys(wanted))
        for split, source in _sources(options, folder).items()
    }


def _divide(
    rows: Rows, columns: Mapping[str, Column], options: DataOptions
) -> dict[str, dict[str, Column]]:
    splits = options.splits
    if splits.fractions is not None:
        # By name: the order in which a recipe says the shares must not matter.
        names = sorted(splits.fractions)
        shares = [splits.fractions[name] for name in names]
        chosen = _hashed(rows[SAMPLE_ID], splits.salt, shares)
        return {name: take(rows, np.flatnonzero(chosen == i)) for i, name in enumerate(names)}
    assert splits.column is not None
    labels = np.array([str(value) for value in np.asarray(columns[splits.column])])
    found = [str(name) for name in np.unique(labels)]
    for name in found:
        if not _SPLIT_NAME.fullmatch(name):
            raise DataError(
                f"data.splits.column: {splits.column!r} holds {name[:40]!r}; the name of a split "
                "has up to 40 of a-z, 0-9 and _"
            )
    return {name: take(rows, np.flatnonzero(labels == name)) for name in found}


def _hashed(ids: Any, salt: str, shares: list[float]) -> NDArray[np.int64]:
    """The split of each id: its hash as a number in [0, 1), among the cumulated shares."""
    places = np.array(
        [int.from_bytes(hashlib.sha256(f"{salt}/{name}".encode()).digest()[:7]) for name in ids],
        dtype=np.float64,
    )
    bounds = np.cumsum(shares)[:-1]
    return np.searchsorted(bounds, places / 2.0**56, side="right")


def _require_unique_ids(splits: Mapping[str, Rows]) -> None:
    ids = np.concatenate([np.asarray(rows[SAMPLE_ID]) for rows in splits.values()])
    if len(set(ids)) == len(ids):
        return
    seen, counts = np.unique(ids.astype(str), return_counts=True)
    twice = seen[counts > 1]
    raise DataError(
        f"data.id: {len(twice)} ids are there more than once, such as {twice[0]!r}; ids must be "
        "unique over all splits"
    )


def _of_one_form(splits: Mapping[str, dict[str, Column]]) -> dict[str, dict[str, Column]]:
    """Where the lengths of an input vary in one split, it is a `Ragged` in all of them."""
    varying = {
        name
        for rows in splits.values()
        for name, column in rows.items()
        if isinstance(column, Ragged)
    }
    return {
        split: {
            name: as_ragged(column) if name in varying else column for name, column in rows.items()
        }
        for split, rows in splits.items()
    }


def _said(specs: tuple[InputSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {spec.shape or ''}".strip() for spec in specs)
