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
from storage.options import Keep, Selection
from storage.reader import LabelSet
from storage.records import Manifest, ShardRecord, parse, read_record
from storage.rows import Array, Column, Ragged, num_rows
from storage.spec import LabelSetSpec

_FLOATS = (schema.LABEL_LOGIT, *schema.STATISTICS)
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
            problem = illegal(content, labels.spec, labels.spec.selections[shard.split])
            if problem:
                raise IntegrityError(f"row group {group}: {problem}")
    except SoftlabelError as error:
        yield Fault(url, str(error), shard)


def illegal(rows: dict[str, Column], spec: LabelSetSpec, selection: Selection) -> str | None:
    """What no soft label may hold and these do, or nothing."""
    index_NK, logit_NK, rest_NT = (
        _values(rows[name]) for name in (schema.INDEX, schema.LOGIT, schema.REST)
    )
    if index_NK.size == 0:
        return None
    present_NK = np.ones(index_NK.shape, np.bool_)
    if selection.varies:
        present_NK = np.arange(index_NK.shape[1]) < _values(rows[schema.KEPT])[:, None]
    if index_NK.min() < 0 or index_NK.max() >= spec.num_classes:
        return f"a class id of {index_NK.max()}, there are {spec.num_classes} classes"
    # Entries that are not there get numbers of their own, below all ids.
    distinct_NK = np.where(present_NK, index_NK, -1 - np.arange(index_NK.shape[1]))
    ordered_NK = np.sort(distinct_NK, axis=1)
    if (ordered_NK[:, 1:] == ordered_NK[:, :-1]).any():
        return "a class is kept twice at one position"
    numbers = [logit_NK, rest_NT] + [_values(rows[n]) for n in _FLOATS if n in rows]
    if any(np.isnan(values).any() for values in numbers) or (rest_NT == np.inf).any():
        return "a logit or a rest that is NaN, or a rest that is infinite"
    if (logit_NK > 0).any():
        return "a logit above 0"
    best_N = logit_NK.max(axis=1)
    if selection.keep is Keep.SAMPLE:
        return _illegal_draws(rows, logit_NK, present_NK, selection)
    if (best_N != 0).any() or (logit_NK[:, 0] != 0).any():
        return "a position without its best class in the first place"
    return _illegal_labels(rows, spec)


def _illegal_draws(
    rows: dict[str, Column], logit_NK: Array, present_NK: Array, selection: Selection
) -> str | None:
    count_NK = _values(rows[schema.COUNT])
    if (count_NK[present_NK] < 1).any() or (count_NK.sum(axis=1) != selection.draws).any():
        return f"a position whose draws are not {selection.draws}"
    if np.isneginf(logit_NK[present_NK]).any():
        return "a class without probability that was drawn"
    return None


def _illegal_labels(rows: dict[str, Column], spec: LabelSetSpec) -> str | None:
    if schema.LABEL not in rows:
        return None
    label_N = _values(rows[schema.LABEL])
    if len(label_N) and label_N.max() >= spec.num_classes:
        return f"a hard label of {label_N.max()}, there are {spec.num_classes} classes"
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
