"""Looking over one shard: its bytes, then every decoded number; and over the ids of all samples.

Costs one reading of the shard, and 8 bytes of memory for each sample of the set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from storage import layout, schema
from storage.errors import IntegrityError, SoftlabelError
from storage.faults import Fault, problem_of
from storage.features import FEATURE_COLUMN
from storage.legality import illegal
from storage.quarantine import read_quarantine
from storage.reader import LabelSet
from storage.records import ShardRecord
from storage.rows import Column, num_rows, values_of


class SampleIds:
    """The ids of the samples that were seen, 64 bits each: enough to tell that one came twice."""

    def __init__(self) -> None:
        self._shards: list[ShardRecord] = []
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, shard: ShardRecord, names: Sequence[str]) -> None:
        """The samples of a row group."""
        self._shards.append(shard)
        self._hashes.append(_hashes(names))

    def twice(self, labels: LabelSet) -> str | None:
        """A sample that is there twice, and where, or nothing."""
        ordered = np.sort(np.concatenate(self._hashes or [np.empty(0, np.uint64)]))
        for same in ordered[1:][ordered[1:] == ordered[:-1]]:
            places = [
                (name, shard.file)
                for shard in self._shards_with(same)
                for name in _names_with(labels, shard, same)
            ]
            name, first = places[0]
            files = [file for other, file in places if other == name]
            if len(files) > 1:
                return f"the sample {name!r} is there twice: in {first} and {files[1]}"
        return None

    def _shards_with(self, wanted: np.uint64) -> list[ShardRecord]:
        pairs = zip(self._shards, self._hashes, strict=True)
        found = {shard.file: shard for shard, hashes in pairs if (hashes == wanted).any()}
        return list(found.values())


def verify_shard(labels: LabelSet, shard: ShardRecord, ids: SampleIds) -> Iterator[Fault]:
    """The faults of a shard and of what it set aside; the ids of its samples are added to `ids`."""
    try:
        _require_legal(labels, shard, ids)
    except SoftlabelError as error:
        yield Fault(labels.url_of(shard), problem_of(error, labels.url_of(shard)), shard)
    url = labels.folder.url_of(f"{layout.QUARANTINE}/{shard.quarantine_file}")
    try:
        read_quarantine(labels.folder, shard)
    except SoftlabelError as error:
        yield Fault(url, problem_of(error, url), shard)


def _require_legal(labels: LabelSet, shard: ShardRecord, ids: SampleIds) -> None:
    labels.check(shard)
    _require_shapes(labels, shard)
    selection = labels.spec.selections.get(shard.split)
    if selection is None:
        raise IntegrityError(f"the specification has no split {shard.split!r}")
    positions = 0
    ends: list[str] = []
    for group, rows in enumerate(shard.row_groups):
        content = labels.read(shard, group)
        if num_rows(content) != rows:
            raise IntegrityError(f"row group {group} has {num_rows(content)} rows, not {rows}")
        problem = illegal(content, labels.spec, selection)
        if problem:
            raise IntegrityError(f"row group {group}: {problem}")
        names = _names(content)
        ids.add(shard, _told_apart(content))
        ends = [*ends, *names[:: max(len(names) - 1, 1)]]
        ends = [ends[0], ends[-1]] if ends else []
        positions += len(values_of(content[schema.INDEX]))
    if positions != shard.positions:
        raise IntegrityError(f"it has {positions} positions, its record says {shard.positions}")
    if (ends or ["", ""]) != [shard.first_id, shard.last_id]:
        said = " to ".join(map(repr, ends)) or "none"
        raise IntegrityError(
            f"it holds the samples {said}, its record says {shard.first_id!r} to {shard.last_id!r}"
        )


def _require_shapes(labels: LabelSet, shard: ShardRecord) -> None:
    """Refuse features that have another shape than those of the first shard."""
    if not labels.spec.features_of(shard.split) or not shard.rows:
        return
    first = labels.feature_shapes()
    for name, shape in labels.shapes_in(shard).items():
        expected = first.get(name.removeprefix(FEATURE_COLUMN))
        if shape != expected:
            raise IntegrityError(f"{name} has the shape {shape}, in the first shard {expected}")


def _names(content: Mapping[str, Column]) -> list[str]:
    return [str(name) for name in np.asarray(content[schema.SAMPLE_ID])]


def _told_apart(content: Mapping[str, Column]) -> list[str]:
    """What no two rows of a set share: the sample's id, and its view where it has several."""
    names = _names(content)
    if schema.VIEW not in content:
        return names
    views = values_of(content[schema.VIEW]).tolist()
    return [f"{name} (view {view})" for name, view in zip(names, views, strict=True)]


def _names_with(labels: LabelSet, shard: ShardRecord, wanted: np.uint64) -> Iterator[str]:
    """The ids in a shard whose hash is `wanted`."""
    for group in range(len(shard.row_groups)):
        wanted_columns = [schema.SAMPLE_ID, *schema.view_columns(labels.spec, shard.split)]
        names = _told_apart(labels.read(shard, group, wanted_columns))
        yield from (
            name for name, same in zip(names, _hashes(names) == wanted, strict=True) if same
        )


def _hashes(names: Sequence[str]) -> NDArray[np.uint64]:
    return np.array(
        [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in names], np.uint64
    )
