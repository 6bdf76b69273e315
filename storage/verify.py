"""Looking for damage: every byte against its record, every record against itself.

`verify` walks whatever product, or whole store, lies at a URL and yields one `Fault` for each
thing that is not as it was written. Costs one reading of everything there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage import layout, schema
from storage.compaction import RecordGroup
from storage.errors import IntegrityError, MissingProductError, SoftlabelError
from storage.files import Folder
from storage.identity import digest_of_bytes, digest_of_digests
from storage.legality import illegal
from storage.reader import LabelSet
from storage.records import Manifest, ShardRecord, parse, read_record
from storage.rows import Ragged, num_rows

_CARD_KINDS = (layout.TEACHERS, layout.STUDENTS, layout.PREDICTIONS, layout.REPORTS)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        url: the damaged file.
        problem: what was expected and what came.
        shard: the shard of the newest state that it concerns, where it does.
        earlier: the digest of the earlier state that it concerns, where it does.
    """

    url: str
    problem: str
    shard: ShardRecord | None = None
    earlier: str | None = None

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
    """The faults of a label set: specification, states, groups, records, shards, numbers.

    A state is a finished manifest. Earlier ones stay readable by their digest, so their shards have
    to be there as well; each file is read once, however many states name it. What no state names
    was left by a run that did not finish, and is no fault.
    """
    yield from _sealed(folder, layout.SPEC)
    yield from _verify_groups(folder)
    try:
        labels = LabelSet.open(folder)
    except SoftlabelError as error:
        yield Fault(folder.url_of(layout.MANIFEST), str(error))
        labels = None
    earlier: list[LabelSet] = []
    for state in _states(folder):
        if isinstance(state, Fault):
            yield state
        elif labels is None or state.digest != labels.digest:
            earlier.append(state)
    seen: set[str] = set()
    records = _records(folder)
    if labels is not None:
        yield from _verify_manifest(folder, labels.manifest)
        yield from _verify_state(labels, records, seen)
    for state in earlier:
        yield from _verify_earlier(state, records, seen)


def verify_shard(labels: LabelSet, shard: ShardRecord) -> Iterator[Fault]:
    """The faults of one shard's file: its bytes, then each decoded number."""
    yield from _verify_shard(labels, shard, [])


def _verify_state(
    labels: LabelSet, records: dict[str, ShardRecord | IntegrityError], seen: set[str]
) -> Iterator[Fault]:
    """The faults of the newest state: its records, its shards, and ids that are there twice."""
    ids: list[NDArray[np.uint64]] = []
    for shard in labels.manifest.shards:
        yield from _verify_record(labels.folder, shard, records)
        yield from _verify_shard(labels, shard, ids)
        seen.add(shard.file)
    labels.close()
    hashes = np.sort(np.concatenate(ids)) if ids else np.empty(0, np.uint64)
    if (hashes[1:] == hashes[:-1]).any():
        yield Fault(
            labels.folder.url_of(layout.MANIFEST),
            "the set holds the same sample twice",
        )


def _verify_earlier(
    state: LabelSet, records: dict[str, ShardRecord | IntegrityError], seen: set[str]
) -> Iterator[Fault]:
    """The faults of the shards that an earlier state alone names."""
    for shard in state.manifest.shards:
        if shard.file in seen:
            continue
        seen.add(shard.file)
        of_record = _verify_record(state.folder, shard, records)
        for fault in (*of_record, *_verify_shard(state, shard, [])):
            yield Fault(
                fault.url,
                f"of the earlier state {state.digest[:12]}: {fault.problem}",
                earlier=state.digest,
            )
    state.close()


def _verify_shard(
    labels: LabelSet, shard: ShardRecord, ids: list[NDArray[np.uint64]]
) -> Iterator[Fault]:
    """The faults of a shard; the hashes of its samples' ids are added to `ids`."""
    selection = labels.spec.selections[shard.split]
    hashes = []
    positions = 0
    ends: list[str] = []
    try:
        labels.check(shard)
        for group, rows in enumerate(shard.row_groups):
            content = labels.read(shard, group)
            if num_rows(content) != rows:
                raise IntegrityError(f"row group {group} has {num_rows(content)} rows, not {rows}")
            problem = illegal(content, labels.spec, selection)
            if problem:
                raise IntegrityError(f"row group {group}: {problem}")
            names = [str(name) for name in np.asarray(content[schema.SAMPLE_ID])]
            ends = [ends[0] if ends else names[0], names[-1]]
            hashes.append(_hashes(names))
            index = content[schema.INDEX]
            positions += len(index.values_NW if isinstance(index, Ragged) else index)
        _require_as_recorded(shard, positions, ends)
    except SoftlabelError as error:
        yield Fault(labels.url_of(shard), _problem(error, labels.url_of(shard)), shard)
    ids += hashes


def _problem(error: SoftlabelError, url: str) -> str:
    """What a reader said, without what a line of this list says anyway."""
    text = str(error).removeprefix(url).lstrip(": ")
    return text.partition("; run: softlabel verify")[0]


def _require_as_recorded(shard: ShardRecord, positions: int, ends: list[str]) -> None:
    if positions != shard.positions:
        raise IntegrityError(f"it has {positions} positions, its record says {shard.positions}")
    if ends != [shard.first_id, shard.last_id]:
        raise IntegrityError(
            f"it holds the samples {ends[0]!r} to {ends[-1]!r}, its record says "
            f"{shard.first_id!r} to {shard.last_id!r}"
        )


def _hashes(names: list[str]) -> NDArray[np.uint64]:
    """64 bits of each id: enough to tell that one is there twice, in bounded memory."""
    return np.array(
        [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in names], np.uint64
    )


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


def _states(folder: Folder) -> Iterator[LabelSet | Fault]:
    """The states that are kept by their digests, and those that cannot be read."""
    states = folder / layout.MANIFESTS
    for name in sorted(states.sizes()):
        try:
            yield LabelSet.open(folder, name.removesuffix(".json"))
        except SoftlabelError as error:
            yield Fault(states.url_of(name), str(error))


def _verify_groups(folder: Folder) -> Iterator[Fault]:
    """Groups of records that cannot be read: no data are lost, but looks cost more."""
    groups = folder / layout.COMPACTED
    for name in sorted(groups.sizes()):
        url = groups.url_of(name)
        try:
            parse(RecordGroup, read_record(groups, name), url)
        except SoftlabelError as error:
            yield Fault(url, str(error))


def _sealed(folder: Folder, name: str) -> Iterator[Fault]:
    try:
        read_record(folder, name)
    except SoftlabelError as error:
        yield Fault(folder.url_of(name), str(error))
