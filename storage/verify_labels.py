"""Looking over a label set: all its states, their records and their shards.

A state is a finished manifest. The newest is read by default; earlier ones stay readable by their
digests, so their shards have to be there as well. Each file is read once, however many states name
it. What no state names was left by a run that did not finish, and is no fault; nor are leases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from storage import layout
from storage.compaction import RecordGroup
from storage.errors import IntegrityError, SoftlabelError
from storage.faults import Fault, problem_of
from storage.files import Folder
from storage.identity import digest_of_bytes, digest_of_digests
from storage.legality import impossible
from storage.reader import LabelSet
from storage.records import ShardRecord, parse, read_record, unseal
from storage.verify_shard import SampleIds, verify_shard

_AT_ONCE = 1024
"""Records whose bytes are held in memory at the same time."""

Records = Mapping[str, ShardRecord | IntegrityError]
"""The records that are there, by the names of their files; or what is wrong with them."""


def verify_label_set(folder: Folder) -> Iterator[Fault]:
    """The faults of a label set: specification, states, groups, records, shards, numbers."""
    labels, faults = _open_newest(folder)
    yield from _verify_spec(folder, labels)
    yield from faults
    yield from _verify_groups(folder)
    earlier: list[LabelSet] = []
    for state in _states(folder, labels):
        if isinstance(state, Fault):
            yield state
        elif labels is None or state.manifest != labels.manifest:
            earlier.append(state)
    records = _records(folder)
    if labels is not None:
        yield from _verify_newest(labels, records)
    yield from _verify_earlier(earlier, labels, records)


def _verify_newest(labels: LabelSet, records: Records) -> Iterator[Fault]:
    """The faults of the newest state: its records, its shards, and samples that are there twice."""
    ids = SampleIds()
    for shard in labels.manifest.shards:
        yield from _verify_record(labels.folder, [shard], records)
        yield from verify_shard(labels, shard, ids)
    twice = ids.twice(labels)
    if twice:
        yield Fault(labels.folder.url_of(layout.MANIFEST), twice)
    labels.close()


def _verify_earlier(
    states: Sequence[LabelSet], labels: LabelSet | None, records: Records
) -> Iterator[Fault]:
    """The faults of what earlier states alone name.

    A shard that was made again with other bytes has the record of the newest state that names it.
    """
    newest = labels.manifest.shards if labels is not None else ()
    looked_at = {shard.record_file for shard in newest}
    read = {_bytes_of(shard) for shard in newest}
    said: dict[str, list[ShardRecord]] = {}
    for state in states:
        for shard in state.manifest.shards:
            said.setdefault(shard.record_file, []).append(shard)
    for state in states:
        for shard in state.manifest.shards:
            faults: list[Fault] = []
            if shard.record_file not in looked_at:
                looked_at.add(shard.record_file)
                faults += _verify_record(state.folder, said[shard.record_file], records)
            if _bytes_of(shard) not in read:
                read.add(_bytes_of(shard))
                faults += verify_shard(state, shard, SampleIds())
            for fault in faults:
                problem = f"of the earlier state {state.digest[:12]}: {fault.problem}"
                yield replace(fault, problem=problem, earlier=state.digest)
        state.close()


def _bytes_of(shard: ShardRecord) -> tuple[Any, ...]:
    """All that a record says of the shard's file."""
    return tuple(shard.model_dump(exclude={"fingerprint", "ordinal", "fidelity"}).values())


def _open(folder: Folder, digest: str | None = None) -> LabelSet | Fault:
    name = f"{layout.MANIFESTS}/{digest}.json" if digest else layout.MANIFEST
    try:
        return LabelSet.open(folder, digest)
    except SoftlabelError as error:
        return Fault(folder.url_of(name), problem_of(error, folder.url_of(name)))


def _open_newest(folder: Folder) -> tuple[LabelSet | None, list[Fault]]:
    """The newest state, unless it is none of this set, and what is wrong with its manifest."""
    labels = _open(folder)
    if isinstance(labels, Fault):
        return None, [labels]
    problem = _problem_of_state(labels)
    if problem:
        return None, [Fault(folder.url_of(layout.MANIFEST), problem)]
    if f"{labels.digest}.json" in (folder / layout.MANIFESTS).sizes():
        return labels, []
    url = folder.url_of(f"{layout.MANIFESTS}/{labels.digest}.json")
    return labels, [Fault(url, "the newest state is missing under its own digest")]


def _problem_of_state(state: LabelSet) -> str | None:
    manifest = state.manifest
    found = digest_of_digests(shard.content_digest for shard in manifest.shards)
    if found != manifest.digest:
        return f"the digest is {manifest.digest[:12]}, its shards give {found[:12]}"
    if _name_of(state.folder) != manifest.fingerprint:
        return f"this manifest belongs to the label set {manifest.fingerprint}"
    problem = impossible(manifest.spec)
    return f"its specification cannot be: {problem}" if problem else None


def _name_of(folder: Folder) -> str:
    return folder.url.rstrip("/").rpartition("/")[2]


def _verify_spec(folder: Folder, labels: LabelSet | None) -> Iterator[Fault]:
    """The fault of the specification: it is what `--repair` makes shards again from."""
    url = folder.url_of(layout.SPEC)
    expected = labels.manifest.fingerprint if labels is not None else _name_of(folder)
    try:
        found = read_record(folder, layout.SPEC).get("fingerprint", expected)
    except SoftlabelError as error:
        yield Fault(url, problem_of(error, url))
        return
    if found != expected:
        yield Fault(url, f"this specification belongs to the label set {found}")


def _states(folder: Folder, labels: LabelSet | None) -> Iterator[LabelSet | Fault]:
    """The states that are kept by their digests, and those that cannot be read."""
    states = folder / layout.MANIFESTS
    for name in sorted(states.sizes()):
        digest = name.removesuffix(".json")
        earlier = None if labels is not None and labels.digest == digest else digest
        state = _open(folder, digest)
        problem = state.problem if isinstance(state, Fault) else _problem_of_state(state)
        if problem is None:
            yield state
        else:
            yield Fault(states.url_of(name), problem, earlier=earlier)


def _verify_groups(folder: Folder) -> Iterator[Fault]:
    """Groups of records that cannot be read: no data are lost, but looks cost more."""
    groups = folder / layout.COMPACTED
    for name in sorted(groups.sizes()):
        url = groups.url_of(name)
        try:
            content = groups.read_bytes(name)
            group = parse(RecordGroup, unseal(content, url), url)
        except SoftlabelError as error:
            yield Fault(url, problem_of(error, url))
            continue
        digest, first = digest_of_bytes(content), group.shards[:1]
        names = [
            layout.record_group(shard.split, shard.ordinal, len(group.shards), digest)
            for shard in first
        ]
        if names != [name]:
            yield Fault(url, "it holds other records than its name says")


def _records(folder: Folder) -> Records:
    found: dict[str, ShardRecord | IntegrityError] = {}
    records = folder / layout.RECORDS
    names = sorted(records.sizes())
    for start in range(0, len(names), _AT_ONCE):
        for name, content in records.read_many(names[start : start + _AT_ONCE]).items():
            url = records.url_of(name)
            try:
                found[name] = parse(ShardRecord, unseal(content, url), url)
            except IntegrityError as error:
                found[name] = error
    return found


def _verify_record(
    folder: Folder, said: Sequence[ShardRecord], records: Records
) -> Iterator[Fault]:
    """The fault of a record that is not what one of the manifests says."""
    url = folder.url_of(f"{layout.RECORDS}/{said[0].record_file}")
    record = records.get(said[0].record_file)
    if record is None:
        yield Fault(url, "the record is missing", said[0])
    elif isinstance(record, IntegrityError):
        yield Fault(url, problem_of(record, url), said[0])
    elif record not in said:
        yield Fault(url, "the record and the manifest say different things", said[0])
