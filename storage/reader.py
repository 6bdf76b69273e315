"""Reading a label set: open, describe, and decode row groups.

A reader trusts the manifest alone. The sha256 of a shard is checked when it is first opened, and
page checksums at every read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from storage import layout, schema
from storage.errors import IntegrityError, MissingProductError, SoftlabelError, StoreError, one_line
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.records import Manifest, ShardRecord, parse, read_record
from storage.rows import Column
from storage.spec import LabelSetSpec

_MAX_OPEN_SHARDS = 32


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
        self._open: OrderedDict[str, pq.ParquetFile] = OrderedDict()

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

    def columns(self, split: str) -> list[str]:
        """The names of all columns of a split."""
        return list(schema.arrow_schema(self.spec, split).names)

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
            table = self._file(shard).read_row_group(group, columns=names, use_threads=False)
            return schema.decode(table, self.spec, shard.split, names)
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
        """All row groups of a split in their stored order."""
        for shard in self.shards(split):
            for group in range(len(shard.row_groups)):
                yield self.read(shard, group, columns)

    def url_of(self, shard: ShardRecord) -> str:
        """Where a shard lies."""
        return self.folder.url_of(f"{layout.SHARDS}/{shard.file}")

    def check(self, shard: ShardRecord) -> None:
        """Compare a shard's file with its record, once for each opened set.

        Raises:
            IntegrityError: its bytes are not those that were written, or it is gone.
        """
        if shard.file in self._checked:
            return
        try:
            content = self.folder.read_bytes(f"{layout.SHARDS}/{shard.file}")
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise IntegrityError(
                f"{self.url_of(shard)} is missing; run: softlabel verify {self.folder.url} --repair"
            ) from error
        found = digest_of_bytes(content)
        if len(content) != shard.size_bytes or found != shard.sha256:
            raise IntegrityError(
                f"{self.url_of(shard)} is damaged: expected {shard.size_bytes} bytes with sha256 "
                f"{shard.sha256[:12]}, got {len(content)} bytes with {found[:12]}; "
                f"run: softlabel verify {self.folder.url} --repair"
            )
        self._checked.add(shard.file)

    def _file(self, shard: ShardRecord) -> pq.ParquetFile:
        if shard.file in self._open:
            self._open.move_to_end(shard.file)
            return self._open[shard.file]
        self.check(shard)
        path = f"{self.folder.path}/{layout.SHARDS}/{shard.file}"
        source = path if self.folder.is_local else self.folder.filesystem.open(path, "rb")
        file = pq.ParquetFile(source, page_checksum_verification=True)
        self._open[shard.file] = file
        if len(self._open) > _MAX_OPEN_SHARDS:
            self._open.popitem(last=False)[1].close(force=True)
        return file

    def close(self) -> None:
        """Close the files that were opened."""
        while self._open:
            self._open.popitem()[1].close(force=True)
