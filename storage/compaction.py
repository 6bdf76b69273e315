"""Few requests for many records: groups of them in one file, beside the records themselves.

A group is a shortcut for reading and nothing more. A shard's own record is what commits it: a group
never makes a shard there whose record is not listed, is passed over where it is damaged or differs
from another source, and can be deleted at any moment. So writers need no agreement; two of them at
worst leave a group too many, or one too few.

A look at 10,000 records costs the listings and a read for each group. What a run that was killed
left outside of groups is read one by one, once: the next who may write puts it into a group.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from storage import layout
from storage.errors import IntegrityError, StoreError
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.records import Manifest, Model, ShardRecord, parse, seal, unseal
from storage.spec import FORMAT_VERSION, StoredModel

GROUP_SIZE: Final = 128
_SMALL_GROUP: Final = 100
_MOST_LOOSE: Final = 16
"""So many records outside of groups, or small groups, are put together."""


class RecordGroup(StoredModel):
    """The records of some shards."""

    format_version: int = FORMAT_VERSION
    shards: tuple[ShardRecord, ...]


@dataclass(frozen=True)
class CommittedRecords:
    """What a look found.

    Attributes:
        there: the records of the shards that are there, by the name of the record's file.
        broken: the names of those that are listed, while the shard is not there.
    """

    there: dict[str, ShardRecord]
    broken: frozenset[str]


class RecordGroups:
    """Keeps records in groups as their shards finish: a group grows until it is full.

    It is written anew with each `_MOST_LOOSE` records more, so that a run that is killed leaves
    fewer outside of groups. To be told of a shard after its own record is written. Safe to use from
    several threads.
    """

    def __init__(self, folder: Folder) -> None:
        """Collect for the label set at `folder`."""
        self._folder = folder
        self._lock = threading.Lock()
        self._pending: list[ShardRecord] = []
        self._group: list[ShardRecord] = []
        self._written: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What stopped the block is what has to be said; without the group nothing is lost.
        with contextlib.suppress(StoreError) if error else contextlib.nullcontext():
            self.flush()

    def add(self, record: ShardRecord) -> None:
        """Take a record; each `_MOST_LOOSE` of them are written.

        Raises:
            StoreError: a group cannot be written.
        """
        with self._lock:
            self._pending.append(record)
            if len(self._pending) >= _MOST_LOOSE:
                self._write()

    def flush(self) -> None:
        """Write what has been taken, unless it is a handful in all."""
        with self._lock:
            if self._pending and len(self._group) + len(self._pending) >= _MOST_LOOSE:
                self._write()

    def _write(self) -> None:
        self._group += self._pending
        self._pending = []
        written = write_groups(self._folder, self._group)
        for name in self._written - written:
            self._folder.delete(f"{layout.COMPACTED}/{name}")
        self._written = written
        if len(self._group) >= GROUP_SIZE:
            self._group, self._written = [], set()


def write_groups(folder: Folder, records: Iterable[ShardRecord]) -> set[str]:
    """Write records in groups of at most `GROUP_SIZE`; returns the names of the files."""
    ordered = sorted(records, key=lambda record: (record.split, record.ordinal))
    written = set()
    for start in range(0, len(ordered), GROUP_SIZE):
        group = RecordGroup(shards=tuple(ordered[start : start + GROUP_SIZE]))
        content = seal(group.model_dump(mode="json"))
        first = group.shards[0]
        digest = digest_of_bytes(content)
        name = layout.record_group(first.split, first.ordinal, len(group.shards), digest)
        folder.write_bytes(f"{layout.COMPACTED}/{name}", content)
        written.add(name)
    return written


def clear_groups(folder: Folder) -> None:
    """Delete all groups: the manifest holds their records, or these are to be written over."""
    groups = folder / layout.COMPACTED
    for name in groups.sizes():
        groups.delete(name)


def committed_records(
    folder: Folder, names: Collection[str], *, compact: bool = False
) -> CommittedRecords:
    """Which of the shards with the records `names` are there.

    A shard is there when its record is listed and whole, and its file has the recorded size. What
    the manifest and the groups say of a record is taken where they agree and the listed record has
    the size of what they say; all other records, and a handful in any case, are read themselves.

    Args:
        folder: the label set.
        names: the records that are looked for.
        compact: put what was read one by one into groups; needs a store that can be written.

    Raises:
        StoreError: the store cannot be read, or not written.
    """
    listed = (folder / layout.RECORDS).sizes()
    wanted = set(names) & listed.keys()
    if not wanted:
        return CommittedRecords({}, frozenset())
    files = (folder / layout.SHARDS).sizes()
    many = len(wanted) > _MOST_LOOSE
    groups = _read_groups(folder) if many else {}
    manifest = _read_manifest(folder) if many else ()
    found = {
        name: record
        for name, record in _agreed([manifest, *groups.values()]).items()
        if name in wanted
        and files.get(record.file) == record.size_bytes
        and listed[name] == len(seal(record.model_dump(mode="json")))
    }
    single = {
        name: record
        for name, record in _read_singly(folder, wanted - found.keys()).items()
        if files.get(record.file) == record.size_bytes
    }
    found |= single
    if compact and many:

        def stands(record: ShardRecord) -> bool:
            name = record.record_file
            if name in wanted:
                return found.get(name) == record
            return name in listed

        _compact(folder, groups, single.values(), stands)
    return CommittedRecords(found, frozenset(wanted - found.keys()))


def _read_manifest(folder: Folder) -> tuple[ShardRecord, ...]:
    found = _read(folder, Manifest, [layout.MANIFEST])
    return found[layout.MANIFEST].shards if found else ()


def _read_groups(folder: Folder) -> dict[str, tuple[ShardRecord, ...]]:
    """The groups by the names of their files; a damaged one is empty."""
    names = (folder / layout.COMPACTED).sizes()
    found = _read(folder / layout.COMPACTED, RecordGroup, names)
    return {name: found[name].shards if name in found else () for name in names}


def _read_singly(folder: Folder, names: Iterable[str]) -> dict[str, ShardRecord]:
    """Records from their own files; what lies under the name of another is left out."""
    found = _read(folder / layout.RECORDS, ShardRecord, sorted(names))
    return {name: record for name, record in found.items() if record.record_file == name}


def _read(folder: Folder, model: type[Model], names: Collection[str]) -> dict[str, Model]:
    """Sealed files that are there and whole, by name."""
    found = {}
    for name, content in folder.read_many(names).items():
        url = folder.url_of(name)
        with contextlib.suppress(IntegrityError):
            found[name] = parse(model, unseal(content, url), url)
    return found


def _agreed(sources: Iterable[Iterable[ShardRecord]]) -> dict[str, ShardRecord]:
    """What the sources say, but for records of which two of them say different things."""
    known: dict[str, ShardRecord] = {}
    differing = set()
    for records in sources:
        for record in records:
            name = record.record_file
            other = known.setdefault(name, record)
            if other is not record and other != record:
                differing.add(name)
    return {name: record for name, record in known.items() if name not in differing}


def _compact(
    folder: Folder,
    groups: Mapping[str, tuple[ShardRecord, ...]],
    single: Collection[ShardRecord],
    stands: Callable[[ShardRecord], bool],
) -> None:
    """Put loose records and small groups together; drop groups that say what no longer holds.

    Without the latter a shard that is made anew, with other bytes of the same size, would be taken
    for the one before it.
    """
    stale = {name for name, shards in groups.items() if not shards or not all(map(stands, shards))}
    small = {name for name, shards in groups.items() if len(shards) < _SMALL_GROUP} - stale
    if len(single) + len(small) < _MOST_LOOSE:
        small = set()
        if not stale:
            return
    kept = [shard for name in stale | small for shard in groups[name] if stands(shard)]
    records = {record.record_file: record for record in (*kept, *single)}
    written = write_groups(folder, records.values())
    for name in (stale | small) - written:
        folder.delete(f"{layout.COMPACTED}/{name}")
