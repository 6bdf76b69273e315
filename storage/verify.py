"""Looking for damage: every byte against its record, every record against itself.

`verify` walks whatever product, or whole store, lies at a URL and yields one `Fault` for each
thing that is not as it was written. Costs one reading of everything there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from storage import layout, schema
from storage.errors import IntegrityError, MissingProductError, SoftlabelError
from storage.files import Folder
from storage.identity import digest_of_bytes, digest_of_digests
from storage.reader import LabelSet
from storage.records import Manifest, ShardRecord, parse, read_record
from storage.rows import Array, Column, Ragged, num_rows
from storage.spec import LabelSetSpec

_CARD_KINDS = (layout.TEACHERS, layout.STUDENTS, layout.PREDICTIONS, layout.REPORTS)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        url: the damaged file.
        problem: what was expected and what came.
        shard: the shard it concerns, where it does.
    """

    url: str
    problem: str
    shard: ShardRecord | None = None

    def __str__(self) -> str:
        return f"{self.url}: {self.problem}"


def verify(folder: Folder) -> Iterator[Fault]:
    """The faults of a label set, a model, a report, or of all products of a store.

    Raises:
        MissingProductError: there is no product at that URL.
    """
    if folder.exists(layout.SPEC) or folder.exists(layout.MANIFEST):
        yield from verify_label_set(folder)
    elif folder.exists(layout.CARD):
        yield from verify_card(folder)
    else:
        yield from _verify_store(folder)


def verify_label_set(folder: Folder) -> Iterator[Fault]:
    """The faults of a label set: specification, manifest, records, shards, decoded numbers."""
    yield from _sealed(folder, layout.SPEC)
    yield from _verify_states(folder)
    try:
        labels = LabelSet.open(folder)
    except SoftlabelError as error:
        yield Fault(folder.url_of(layout.MANIFEST), str(error))
        return
    yield from _verify_manifest(folder, labels.manifest)
    records = _records(folder)
    for shard in labels.manifest.shards:
        yield from _verify_record(folder, shard, records)
        yield from verify_shard(labels, shard)
    labels.close()


def verify_shard(labels: LabelSet, shard: ShardRecord) -> Iterator[Fault]:
    """The faults of one shard's file: its bytes, then each decoded number."""
    url = labels.url_of(shard)
    try:
        labels.check(shard)
        for group, rows in enumerate(shard.row_groups):
            content = labels.read(shard, group)
            if num_rows(content) != rows:
                raise IntegrityError(f"row group {group} has {num_rows(content)} rows, not {rows}")
            problem = illegal(content, labels.spec)
            if problem:
                raise IntegrityError(f"row group {group}: {problem}")
    except SoftlabelError as error:
        yield Fault(url, str(error), shard)


def illegal(rows: dict[str, Column], spec: LabelSetSpec) -> str | None:
    """What no soft label may hold and this one does, or nothing."""
    index, logit, rest = (_values(rows[name]) for name in (schema.INDEX, schema.LOGIT, schema.REST))
    ordered = np.sort(index, axis=1)
    if index.size and (ordered[:, -1] >= spec.num_classes).any():
        return f"a class id of {ordered.max()}, there are {spec.num_classes} classes"
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        return "a class is kept twice at one position"
    if np.isnan(logit).any() or (logit > 0).any() or np.isnan(rest).any() or (rest == np.inf).any():
        return "a logit above 0 or NaN, or a rest that is NaN or infinite"
    if len(logit) and (logit.max(axis=1) != 0).any():
        return "a position without its best class"
    return None


def verify_card(folder: Folder) -> Iterator[Fault]:
    """The faults of a product with a card: the card, then each file against its sha256."""
    faults = list(_sealed(folder, layout.CARD))
    if faults:
        yield from faults
        return
    for name, sha256 in read_record(folder, layout.CARD).get("files", {}).items():
        try:
            found = digest_of_bytes(folder.read_bytes(name))
        except SoftlabelError as error:
            yield Fault(folder.url_of(name), str(error))
            continue
        if found != sha256:
            yield Fault(folder.url_of(name), f"expected sha256 {sha256[:12]}, got {found[:12]}")


def _verify_store(store: Folder) -> Iterator[Fault]:
    kinds = store.folders()
    known = [kind for kind in kinds if kind in (*_CARD_KINDS, layout.LABELS)]
    if not known:
        raise MissingProductError(
            f"there is no label set, model, report or store at {store.url}; expected one of "
            f"{layout.MANIFEST}, {layout.CARD} or the folder {layout.LABELS}"
        )
    for kind in known:
        for name in (store / kind).folders():
            product = store / layout.product(kind, name)
            unfinished = layout.MANIFEST if kind == layout.LABELS else layout.CARD
            if product.exists(unfinished):
                yield from verify(product)


def _verify_manifest(folder: Folder, manifest: Manifest) -> Iterator[Fault]:
    url = folder.url_of(layout.MANIFEST)
    found = digest_of_digests(shard.content_digest for shard in manifest.shards)
    if found != manifest.digest:
        yield Fault(url, f"the digest is {manifest.digest[:12]}, its shards give {found[:12]}")
    if folder.url.rstrip("/").rpartition("/")[2] != manifest.fingerprint:
        yield Fault(url, f"this manifest belongs to the label set {manifest.fingerprint}")


def _records(folder: Folder) -> dict[str, ShardRecord | IntegrityError]:
    found: dict[str, ShardRecord | IntegrityError] = {}
    records = folder / layout.RECORDS
    for name in records.sizes():
        try:
            found[name] = parse(ShardRecord, read_record(records, name), records.url_of(name))
        except IntegrityError as error:
            found[name] = error
    return found


def _verify_record(
    folder: Folder, shard: ShardRecord, records: dict[str, ShardRecord | IntegrityError]
) -> Iterator[Fault]:
    name = layout.record_file(shard.split, shard.ordinal, shard.fingerprint)
    url = folder.url_of(f"{layout.RECORDS}/{name}")
    record = records.get(name)
    if record is None:
        yield Fault(url, "the record is missing", shard)
    elif isinstance(record, IntegrityError):
        yield Fault(url, str(record), shard)
    elif record != shard:
        yield Fault(url, "the record and the manifest say different things", shard)


def _verify_states(folder: Folder) -> Iterator[Fault]:
    states = folder / layout.MANIFESTS
    for name in states.sizes():
        try:
            LabelSet.open(folder, name.removesuffix(".json"))
        except SoftlabelError as error:
            yield Fault(states.url_of(name), str(error))


def _sealed(folder: Folder, name: str) -> Iterator[Fault]:
    try:
        read_record(folder, name)
    except SoftlabelError as error:
        yield Fault(folder.url_of(name), str(error))


def _values(column: Column) -> Array:
    return column.values_NW if isinstance(column, Ragged) else column
