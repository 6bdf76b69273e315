"""Reading a label set: open, describe, and decode row groups.

A reader trusts the manifest alone. The sha256 of a shard is checked when it is first opened, and
page checksums at every read. Threads may read from one set: one after the other.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from storage import layout, schema
from storage.codebook import Shape
from storage.encoding import decode
from storage.errors import IntegrityError, MissingProductError, SoftlabelError, one_line
from storage.files import Folder
from storage.options import TRAIN
from storage.records import Manifest, ShardRecord, parse, read_record
from storage.rows import Column
from storage.shards import OpenShard, check_bytes, open_shard, shard_name
from storage.spec import LabelSetSpec
from storage.summary import describe_label_set

_MAX_OPEN_SHARDS = 16


class LabelSet:
    """A finished state of a soft-label set.

    Attributes:
        folder: where it lies.
        manifest: what it holds.
    """

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._checked: set[str] = set()
        self._seen: set[str] = set()
        self._open: OrderedDict[str, OpenShard] = OrderedDict()
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type[LabelSet], tuple[Folder, Manifest]]:
        """In another process it is a set that was just opened."""
        return LabelSet, (self.folder, self.manifest)

    @classmethod
    def open(cls, where: str | Folder, digest: str | None = None) -> LabelSet:
        """Open the label set at a URL: its newest state, or an earlier one by its digest.

        Raises:
            MissingProductError: there is no finished label set, or none of that digest.
            IntegrityError: the manifest is damaged.
        """
        folder = where if isinstance(where, Folder) else Folder.open(where)
        name = f"{layout.MANIFESTS}/{digest}.json" if digest else layout.MANIFEST
        if not folder.exists(name):
            state = f"no state {digest}" if digest else "no finished label set"
            raise MissingProductError(
                f"there is {state} at {folder.url}: expected {name}; run the label stage"
            )
        url = folder.url_of(name)
        manifest = parse(Manifest, read_record(folder, name), url)
        if digest and manifest.digest != digest:
            raise IntegrityError(f"{url} holds the state {manifest.digest}, not that of its name")
        return cls(folder, manifest)

    @property
    def spec(self) -> LabelSetSpec:
        """The form of its rows."""
        return self.manifest.spec

    @property
    def digest(self) -> str:
        """The identity of its content."""
        return self.manifest.digest

    @property
    def splits(self) -> tuple[str, ...]:
        """Its splits, the one to train on first."""
        return self.spec.splits

    def describe(self) -> dict[str, Any]:
        """What it keeps, how big and how faithful it is, as plain values."""
        return describe_label_set(self)

    def columns(self, split: str) -> list[str]:
        """The names of all columns of a split."""
        return schema.columns(self.spec, split)

    def feature_shapes(self) -> dict[str, Shape]:
        """The shape of each stored feature of a training sample, by name, without B.

        None stands for the sample's own length. Opens the first shard that has rows.

        Raises:
            IntegrityError: that shard is damaged.
        """
        some = [shard for shard in self.manifest.of_split(TRAIN) if shard.rows]
        if not some or not self.spec.features:
            return {}
        found = self.shapes_in(some[0])
        return {stored.feature: found[stored.column] for stored in self.spec.features}

    def shapes_in(self, shard: ShardRecord) -> Mapping[str, Shape]:
        """The same of one shard, by column.

        Raises:
            IntegrityError: it is damaged.
        """
        found = self._file(shard).codebook.features
        for name in self.spec.features_of(shard.split):
            if name not in found:
                raise IntegrityError(
                    f"{self.url_of(shard)}: the column {name!r} lacks the shape of its values"
                )
        return found

    def shards(self, split: str) -> tuple[ShardRecord, ...]:
        """The shards of a split.

        Raises:
            MissingProductError: the set holds no such split.
        """
        shards = self.manifest.of_split(split)
        if not shards:
            raise MissingProductError(
                f"the label set {self.folder.url} has no split {split!r}; "
                f"it has: {', '.join(self.splits)}"
            )
        return shards

    def read(
        self, shard: ShardRecord, group: int, columns: Sequence[str] | None = None
    ) -> dict[str, Column]:
        """One row group, decoded: see `storage.schema.decode`.

        Raises:
            IntegrityError: the file is not what its record says.
        """
        names = list(columns) if columns is not None else self.columns(shard.split)
        try:
            stored = schema.stored_columns(self.spec, shard.split, names)
            with self._lock:
                shard_file = self._file(shard)
                table = shard_file.parquet.read_row_group(group, columns=stored, use_threads=False)
            return decode(table, self.spec, shard.split, names, shard_file.codebook)
        except IntegrityError as error:
            if self.url_of(shard) in str(error):
                raise
            raise IntegrityError(f"{self.url_of(shard)}: {error}") from error
        except (pa.ArrowException, OSError, KeyError, IndexError) as error:
            if isinstance(error, SoftlabelError):
                raise
            raise IntegrityError(
                f"{self.url_of(shard)} cannot be read: {one_line(error)}; "
                f"run: softlabel verify {self.folder.url} --repair"
            ) from error

    def batches(
        self, split: str, columns: Sequence[str] | None = None
    ) -> Iterator[dict[str, Column]]:
        """All row groups of a split in their stored order; one shard is open at a time."""
        for shard in self.shards(split):
            for group in range(len(shard.row_groups)):
                yield self.read(shard, group, columns)
            with self._lock:
                opened = self._open.pop(shard.file, None)
            if opened is not None:
                opened.close()
                pa.default_memory_pool().release_unused()

    def url_of(self, shard: ShardRecord) -> str:
        """Where a shard lies."""
        return self.folder.url_of(shard_name(shard))

    def check(self, shard: ShardRecord) -> None:
        """Compare a shard's file with its record, once for each opened set.

        Raises:
            IntegrityError: its bytes are not those that were written, or it is gone.
        """
        self._checked_content(shard)

    def _checked_content(self, shard: ShardRecord) -> bytes | None:
        with self._lock:
            if shard.file in self._checked:
                return None
            content = check_bytes(self.folder, shard)
            self._checked.add(shard.file)
            return content

    def _file(self, shard: ShardRecord) -> OpenShard:
        if shard.file in self._open:
            self._open.move_to_end(shard.file)
            return self._open[shard.file]
        content = self._checked_content(shard)
        seen = shard.file in self._seen
        self._open[shard.file] = open_shard(self.folder, shard, self.spec, content, seen=seen)
        self._seen.add(shard.file)
        if len(self._open) > _MAX_OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        return self._open[shard.file]

    def close(self) -> None:
        """Close the files that were opened."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()
