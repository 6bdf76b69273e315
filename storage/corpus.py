"""The corpus: the user's data as checked, split columns, and the digests that name its content.

A corpus is held in memory. Its index (which samples make which shard, and their digests) is kept
in the store, so that a finished pipeline looks at files and does not read them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import layout, sources
from storage.errors import DataError, IntegrityError
from storage.files import Folder
from storage.identity import canonical_json, fingerprint
from storage.options import SPLIT_NAME_PATTERN, DataOptions, Task
from storage.records import parse, read_record, write_record
from storage.rows import Column, Ragged, Rows, num_rows, take, values_of
from storage.samples import as_ragged, prepare
from storage.schema import LABEL, MASK, SAMPLE_ID
from storage.spec import CorpusForm, InputSpec, StoredModel
from storage.writer import ranges

_SPLIT_NAME = re.compile(SPLIT_NAME_PATTERN)

CODE_VERSION = 1
"""Raised by hand when the same data come to other rows or digests."""


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
    """

    task: Task
    inputs: tuple[InputSpec, ...]
    has_label: bool
    shards: dict[str, tuple[ShardSamples, ...]]
    digests: dict[str, str]
    samples: dict[str, int]
    num_labels: int

    @property
    def form(self) -> CorpusForm:
        """What the data alone decide about a label set."""
        return CorpusForm(self.task, self.inputs, self.has_label, tuple(self.samples))


@dataclass(frozen=True)
class Corpus:
    """The user's samples by split, as numpy columns named as in a shard."""

    form: CorpusForm
    splits: Mapping[str, Rows]

    @classmethod
    def load(cls, options: DataOptions, folder: Path) -> Corpus:
        """Read and check the data that `options` name; paths are relative to `folder`.

        Raises:
            DataError: a file, column, label, id, split or input is not as the recipe says.
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
        form = CorpusForm(options.task, _input_specs(first), LABEL in first, tuple(splits))
        for name, rows in splits.items():
            specs = _input_specs(rows)
            if specs != form.inputs:
                raise DataError(
                    f"data.inputs: the split {name!r} holds {_said(specs)}, while the split "
                    f"{form.splits[0]!r} holds {_said(form.inputs)}; make them the same"
                )
        return cls(form, splits)

    @property
    def samples(self) -> dict[str, int]:
        """Samples of each split."""
        return {split: num_rows(rows) for split, rows in self.splits.items()}

    def read(self, split: str, start: int, stop: int) -> dict[str, Column]:
        """The samples of a split from `start` to `stop`."""
        return take(self.splits[split], np.arange(start, min(stop, self.samples[split])))

    def close(self) -> None:
        """Nothing to do."""

    def index(self, positions_per_shard: int) -> CorpusIndex:
        """Cut each split into shards and digest them."""
        shards = {
            split: tuple(_shards(rows, positions_per_shard)) for split, rows in self.splits.items()
        }
        return CorpusIndex(
            task=self.form.task,
            inputs=self.form.inputs,
            has_label=self.form.has_label,
            shards=shards,
            digests={split: digest_of_rows(rows) for split, rows in self.splits.items()},
            samples={split: num_rows(rows) for split, rows in self.splits.items()},
            num_labels=max(_num_labels(rows) for rows in self.splits.values()),
        )


def corpus_index(
    store: Folder, options: DataOptions, folder: Path, positions_per_shard: int
) -> CorpusIndex:
    """The index of the user's data: from the store where the data did not change since."""
    urls = _sources(options, folder)
    stamps = {split: sources.stamp(url, options.version) for split, url in urls.items()}
    if None in stamps.values():
        return Corpus.load(options, folder).index(positions_per_shard)
    key = {
        "code_version": CODE_VERSION,
        "data": options.identity(),
        "stamps": stamps,
        "shard": positions_per_shard,
    }
    name = layout.corpus_index(fingerprint(key))
    try:
        if store.exists(name):
            return parse(CorpusIndex, read_record(store, name), store.url_of(name))
    except IntegrityError:
        store.delete(name)
    index = Corpus.load(options, folder).index(positions_per_shard)
    write_record(store, name, index)
    return index


def digest_of_rows(rows: Rows) -> str:
    """The sha256 over ids and content of samples."""
    state = hashlib.sha256()
    for name in sorted(rows):
        column = rows[name]
        values = values_of(column)
        state.update(canonical_json([name, values.dtype.str, values.shape]))
        if isinstance(column, Ragged):
            state.update(column.lengths_B.tobytes())
        if sources.is_text(values):
            state.update(canonical_json([str(value) for value in values]))
        else:
            state.update(np.ascontiguousarray(values).tobytes())
    return state.hexdigest()


def positions_of(rows: Rows) -> NDArray[np.int64]:
    """Positions of each sample: those of its block, or one."""
    mask = rows.get(MASK)
    return mask.lengths_B if isinstance(mask, Ragged) else np.ones(num_rows(rows), np.int64)


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


def _input_specs(rows: Rows) -> tuple[InputSpec, ...]:
    specs = []
    for name, column in rows.items():
        if not name.startswith("input."):
            continue
        plain = name.removeprefix("input.")
        if isinstance(column, Ragged):
            specs.append(InputSpec(name=plain, dtype=column.values_NW.dtype.name, shape=None))
        else:
            specs.append(InputSpec(name=plain, dtype=column.dtype.name, shape=column.shape[1:]))
    return tuple(specs)


def _shards(rows: Rows, positions_per_shard: int) -> list[ShardSamples]:
    positions = positions_of(rows)
    return [
        ShardSamples(
            start=start,
            rows=stop - start,
            positions=int(positions[start:stop].sum()),
            digest=digest_of_rows(take(rows, np.arange(start, stop))),
        )
        for start, stop in ranges(positions, positions_per_shard)
    ]


def _num_labels(rows: Rows) -> int:
    if LABEL not in rows:
        return 0
    column = rows[LABEL]
    values = values_of(column)
    return int(values.max(initial=-1)) + 1
