"""A label set in another form, for readers that are not ours.

    <destination>/
      data/<split>-00000-of-00012.parquet    one for each shard, in order
      export.json                            what it is and which files there are, written last

Shard by shard, in the memory of one. On a local disk the folder appears as a whole, by renaming;
elsewhere each file does, and `export.json` is the last: without it an export is not finished.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage import schema
from storage.axolotl import axolotl_inputs, axolotl_settings, axolotl_table, require_axolotl
from storage.errors import RecipeError, StoreError, one_line
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.local import TEMPORARY_SUFFIX
from storage.options import AnyTemperature
from storage.portable import portable_table
from storage.positions import COLUMNS, stored_temperature
from storage.reader import LabelSet
from storage.records import ShardRecord, write_record
from storage.rows import Ragged, Rows
from storage.spec import LabelSetSpec

DATA: Final = "data"
INDEX_FILE: Final = "export.json"


class ExportFormat(StrEnum):
    """What a label set can be exported as."""

    PORTABLE = "portable"
    """One row for each position: see `storage.portable`."""
    AXOLOTL = "axolotl"
    """Tokenised blocks for axolotl's distillation plugin: see `storage.axolotl`."""


_TABLES: Final[
    dict[ExportFormat, Callable[[Rows, LabelSetSpec, str, AnyTemperature], pa.Table]]
] = {
    ExportFormat.PORTABLE: portable_table,
    ExportFormat.AXOLOTL: axolotl_table,
}


@dataclass(frozen=True)
class ExportPlan:
    """What is exported.

    Attributes:
        labels: the label set.
        form: as what.
        splits: which splits.
        temperature: where probabilities are taken.
    """

    labels: LabelSet
    form: ExportFormat
    splits: tuple[str, ...]
    temperature: AnyTemperature

    @classmethod
    def of(
        cls,
        labels: LabelSet,
        form: ExportFormat,
        splits: Sequence[str] | None = None,
        temperature: AnyTemperature | None = None,
    ) -> ExportPlan:
        """What was asked for, checked; by default all splits, at the first stored temperature.

        Raises:
            MissingProductError: the set has no such split.
            RecipeError: the form cannot say what is stored, or nothing is stored for that
                temperature.
        """
        chosen = tuple(splits) if splits else labels.splits
        at = stored_temperature(labels.spec, temperature)
        for split in chosen:
            labels.shards(split)
            if form is ExportFormat.AXOLOTL:
                require_axolotl(labels.spec, split, at)
        return cls(labels, form, chosen, at)

    @property
    def shards(self) -> tuple[ShardRecord, ...]:
        """The shards of the splits, in order."""
        return tuple(shard for split in self.splits for shard in self.labels.shards(split))


def export(
    plan: ExportPlan, destination: Folder, on_shard: Callable[[ShardRecord], None] = lambda _: None
) -> dict[str, Any]:
    """Write an export; returns what stands in its `export.json`.

    Raises:
        RecipeError: there are files at the destination already.
        IntegrityError: a shard is damaged.
        StoreError: the destination cannot be written.
    """
    _require_empty(destination)
    files = []
    longest = 0
    with _published(destination) as folder:
        for split in plan.splits:
            shards = plan.labels.shards(split)
            batches = plan.labels.batches(split, _columns(plan, split))
            for number, shard in enumerate(shards):
                written = _parquet(plan, split, islice(batches, len(shard.row_groups)))
                longest = max(longest, written.longest)
                name = f"{DATA}/{split}-{number:05d}-of-{len(shards):05d}.parquet"
                folder.write_bytes(name, written.content)
                files.append(
                    {
                        "file": name,
                        "split": split,
                        "rows": written.rows,
                        "size_bytes": len(written.content),
                        "sha256": digest_of_bytes(written.content),
                    }
                )
                on_shard(shard)
        index = _index(plan, files, longest)
        write_record(folder, INDEX_FILE, index)
    return index


@dataclass(frozen=True)
class _Written:
    """A file of the export.

    Attributes:
        content: its bytes.
        rows: how many it holds.
        longest: the most positions of a sample in it.
    """

    content: bytes
    rows: int
    longest: int


def _parquet(plan: ExportPlan, split: str, batches: Iterable[Rows]) -> _Written:
    """A file of the export; its row groups are those of the shard, which `batches` hold."""
    sink = pa.BufferOutputStream()
    count = longest = 0
    with contextlib.ExitStack() as stack:
        writer = None
        for rows in batches:
            table = _TABLES[plan.form](rows, plan.labels.spec, split, plan.temperature)
            if writer is None:
                writer = stack.enter_context(
                    pq.ParquetWriter(sink, table.schema, compression="zstd")
                )
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
            count += table.num_rows
            longest = max(longest, _most_positions(rows))
    return _Written(bytes(sink.getvalue()), count, longest)


def _most_positions(rows: Rows) -> int:
    index = rows[schema.INDEX]
    return int(index.lengths_B.max(initial=0)) if isinstance(index, Ragged) else 1


def _columns(plan: ExportPlan, split: str) -> list[str]:
    spec = plan.labels.spec
    inputs = axolotl_inputs(spec) if plan.form is ExportFormat.AXOLOTL else []
    return [name for name in schema.columns(spec, split) if name in {*COLUMNS, *inputs}]


def _index(plan: ExportPlan, files: list[dict[str, Any]], longest: int) -> dict[str, Any]:
    spec = plan.labels.spec
    content = {
        "format": plan.form.value,
        "temperature": plan.temperature,
        "label_set": {
            "url": plan.labels.folder.url,
            "fingerprint": plan.labels.manifest.fingerprint,
            "digest": plan.labels.digest,
        },
        "num_classes": spec.num_classes,
        "class_names": spec.class_names,
        "rows": {
            split: sum(file["rows"] for file in files if file["split"] == split)
            for split in plan.splits
        },
        "size_bytes": sum(file["size_bytes"] for file in files),
        "files": files,
    }
    if plan.form is ExportFormat.AXOLOTL:
        content["settings"] = axolotl_settings(spec, plan.splits, plan.temperature, longest)
    return content


def _require_empty(destination: Folder) -> None:
    if destination.is_local and Path(destination.path).is_file():
        raise RecipeError(f"--to: {destination.url} is a file; name a new folder")
    if destination.sizes() or destination.folders():
        raise RecipeError(
            f"--to: there are files at {destination.url} already; name a new folder, or delete them"
        )


@contextlib.contextmanager
def _published(destination: Folder) -> Iterator[Folder]:
    """Where to write what is to be at the destination; on a local disk it goes there at the end."""
    if not destination.is_local:
        yield destination
        return
    final = Path(destination.path)
    mark = f"{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    staged = final.with_name(f".{final.name}.{mark}")
    try:
        yield Folder.open(staged)
        try:
            staged.rename(final)
        except OSError as error:
            raise StoreError(f"cannot write {destination.url}: {one_line(error)}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
