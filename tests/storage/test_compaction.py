from pathlib import Path

import pytest

from storage import compaction, layout
from storage.compaction import GROUP_SIZE, RecordGroups, clear_groups, committed_records
from storage.errors import StoreError
from storage.files import Folder
from storage.records import Manifest, ShardRecord, seal, write_record
from tests.storage.refusal import refused
from tests.storage.test_records import content_digest, shard
from tests.storage.toy import SET_FINGERPRINT, toy_spec

FILE = b"x" * 100


def one(ordinal: int, split: str = "train", **changes) -> ShardRecord:
    digest = content_digest(split, ordinal)
    file = layout.shard_file(split, ordinal, digest)
    fingerprint = f"{ordinal:016x}"[::-1]
    return shard(
        split, ordinal, file=file, content_digest=digest, fingerprint=fingerprint
    ).model_copy(update=changes)


def commit(folder: Folder, *records: ShardRecord) -> list[ShardRecord]:
    for record in records:
        folder.write_bytes(f"{layout.SHARDS}/{record.file}", FILE)
        write_record(folder / layout.RECORDS, record.record_file, record)
    return list(records)


def finish(folder: Folder, records: list[ShardRecord]) -> None:
    manifest = Manifest.of(SET_FINGERPRINT, toy_spec(), tuple(records), {})
    write_record(folder, layout.MANIFEST, manifest)


def group(folder: Folder, records: list[ShardRecord], stopped: bool = False) -> None:
    with RecordGroups(folder) as groups:
        for record in records:
            groups.add(record)
        if stopped:
            raise KeyboardInterrupt


def groups_of(folder: Folder) -> dict[str, int]:
    return (folder / layout.COMPACTED).sizes()


def by_name(records: list[ShardRecord]) -> dict[str, ShardRecord]:
    return {record.record_file: record for record in records}


class Reads:
    """A folder that counts what is read one by one."""

    def __init__(self, monkeypatch):
        self.names: list[str] = []
        original = Folder.read_many

        def read_many(folder, names):
            names = list(names)
            self.names += [f"{folder.path.rpartition('/')[2]}/{name}" for name in names]
            return original(folder, names)

        monkeypatch.setattr(Folder, "read_many", read_many)

    def of(self, kind: str) -> int:
        count = sum(name.startswith(f"{kind}/") for name in self.names)
        self.names = [name for name in self.names if not name.startswith(f"{kind}/")]
        return count


@pytest.fixture
def reads(monkeypatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def folder() -> Folder:
    folder = Folder.open("memory://compaction")
    if folder.filesystem.exists(folder.path):
        folder.filesystem.rm(folder.path, recursive=True)
    return folder


@pytest.fixture
def records(folder) -> list[ShardRecord]:
    return commit(folder, *(one(ordinal) for ordinal in range(40)))


def look(folder: Folder, records: list[ShardRecord], compact: bool = False):
    return committed_records(folder, by_name(records), compact=compact).there


class TestGroups:
    def test_one_grows_until_it_is_full(self, folder):
        groups = RecordGroups(folder)
        for ordinal in range(GROUP_SIZE):
            groups.add(one(ordinal))
            held = [name.split("-")[2] for name in groups_of(folder)]
            assert held == ([str((ordinal + 1) // 16 * 16)] if ordinal >= 15 else [])
        groups.add(one(GROUP_SIZE))
        (name,) = groups_of(folder)
        assert name.startswith(f"train-0000000-{GROUP_SIZE}-")

    def test_the_rest_is_written_at_the_end(self, folder):
        group(folder, [one(ordinal) for ordinal in range(GROUP_SIZE + 20)])
        assert len(groups_of(folder)) == 2

    def test_a_handful_is_left_alone(self, folder):
        group(folder, [one(ordinal) for ordinal in range(5)])
        assert groups_of(folder) == {}

    def test_it_is_written_where_the_work_was_stopped(self, folder):
        with pytest.raises(KeyboardInterrupt):
            group(folder, [one(ordinal) for ordinal in range(20)], stopped=True)
        assert len(groups_of(folder)) == 1

    def test_a_store_that_cannot_be_written_is_said(self, store):
        store.write_bytes(layout.COMPACTED, b"no folder")
        with refused(StoreError, layout.COMPACTED):
            group(store, [one(ordinal) for ordinal in range(20)])

    def test_what_stopped_the_work_is_said_first(self, store):
        def stopped() -> None:
            with RecordGroups(store) as groups:
                for ordinal in range(20):
                    groups.add(one(ordinal))
                clear_groups(store)
                Path(store.path, layout.COMPACTED).rmdir()
                store.write_bytes(layout.COMPACTED, b"no folder")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped()

    def test_they_can_be_deleted_at_any_time(self, folder, records):
        group(folder, records)
        clear_groups(folder)
        assert groups_of(folder) == {}
        assert look(folder, records) == by_name(records)
        clear_groups(folder)


class TestLook:
    def test_nothing_is_there_at_first(self, folder, reads):
        found = committed_records(folder, by_name([one(0)]))
        assert (found.there, found.broken) == ({}, frozenset())
        assert reads.names == []

    def test_without_groups_each_record_is_read(self, folder, records, reads):
        assert look(folder, records) == by_name(records)
        assert reads.of(layout.RECORDS) == len(records)

    def test_what_is_in_groups_is_not_read_again(self, folder, records, reads):
        group(folder, records[:30])
        assert look(folder, records) == by_name(records)
        assert (reads.of(layout.RECORDS), reads.of(layout.COMPACTED)) == (10, 1)

    def test_what_is_in_the_manifest_is_not_read_again(self, folder, records, reads):
        finish(folder, records)
        assert look(folder, records) == by_name(records)
        assert reads.of(layout.RECORDS) == 0

    def test_only_what_is_asked_for_is_looked_at(self, folder, records, reads):
        wanted = records[3:5]
        assert look(folder, wanted) == by_name(wanted)
        assert len(reads.names) == 2

    def test_a_look_writes_nothing(self, folder, records):
        look(folder, records)
        assert groups_of(folder) == {}

    @pytest.mark.parametrize("source", ["group", "manifest"])
    def test_without_its_record_a_shard_is_not_there(self, folder, records, source):
        group(folder, records) if source == "group" else finish(folder, records)
        folder.delete(f"{layout.RECORDS}/{records[7].record_file}")
        assert look(folder, records) == by_name(records[:7] + records[8:])

    @pytest.mark.parametrize("source", ["group", "manifest", None])
    @pytest.mark.parametrize("content", [None, b"", FILE + b"x"])
    def test_without_its_file_a_shard_is_broken(self, folder, records, source, content):
        if source:
            group(folder, records) if source == "group" else finish(folder, records)
        name = f"{layout.SHARDS}/{records[7].file}"
        folder.delete(name) if content is None else folder.write_bytes(name, content)
        found = committed_records(folder, by_name(records))
        assert found.there == by_name(records[:7] + records[8:])
        assert found.broken == {records[7].record_file}

    @pytest.mark.parametrize("source", ["group", "manifest", None])
    @pytest.mark.parametrize("content", [b"", b"nonsense", seal({})])
    def test_a_record_cut_short_is_broken(self, folder, records, source, content):
        if source:
            group(folder, records) if source == "group" else finish(folder, records)
        folder.write_bytes(f"{layout.RECORDS}/{records[7].record_file}", content)
        found = committed_records(folder, by_name(records))
        assert found.there == by_name(records[:7] + records[8:])
        assert found.broken == {records[7].record_file}

    def test_a_record_under_the_name_of_another_is_broken(self, folder, records):
        write_record(folder / layout.RECORDS, records[7].record_file, records[8])
        found = committed_records(folder, by_name(records))
        assert found.broken == {records[7].record_file}

    @pytest.mark.parametrize("damage", [b"", b"{}", seal({"shards": 1}), seal({"shards": [{}]})])
    def test_a_damaged_group_is_passed_over(self, folder, records, damage):
        group(folder, records)
        (name,) = groups_of(folder)
        folder.write_bytes(f"{layout.COMPACTED}/{name}", damage)
        assert look(folder, records) == by_name(records)

    @pytest.mark.parametrize("damage", [b"", b"{}", seal({"format_version": 10**9})])
    def test_a_damaged_manifest_is_passed_over(self, folder, records, damage):
        folder.write_bytes(layout.MANIFEST, damage)
        assert look(folder, records) == by_name(records)

    def test_where_sources_differ_the_record_itself_decides(self, folder, records):
        group(folder, [records[0].model_copy(update={"sha256": "b" * 64}), *records[1:]])
        finish(folder, records)
        assert look(folder, records) == by_name(records)
        newer = commit(folder, records[0].model_copy(update={"sha256": "b" * 64}))
        assert look(folder, records) == by_name(newer + records[1:])


class TestCompaction:
    def test_loose_records_are_put_into_groups(self, folder, records, reads):
        assert look(folder, records, compact=True) == by_name(records)
        assert len(groups_of(folder)) == 1
        reads.names.clear()
        assert look(folder, records) == by_name(records)
        assert reads.of(layout.RECORDS) == 0

    def test_a_handful_is_left_alone(self, folder, records):
        group(folder, records[:30])
        before = groups_of(folder)
        look(folder, records, compact=True)
        assert groups_of(folder) == before

    def test_small_groups_are_put_together(self, folder, records):
        for start in range(0, 40, 2):
            compaction.write_groups(folder, records[start : start + 2])
        assert len(groups_of(folder)) == 20
        assert look(folder, records, compact=True) == by_name(records)
        assert len(groups_of(folder)) == 1
        assert look(folder, records) == by_name(records)

    def test_it_comes_to_rest(self, folder, records):
        for _ in range(3):
            look(folder, records, compact=True)
            (name,) = groups_of(folder)
        assert name.startswith("train-0000000-40-")

    def test_several_splits_share_a_group(self, folder):
        records = commit(folder, *(one(0, f"split_{number}") for number in range(20)))
        look(folder, records, compact=True)
        assert len(groups_of(folder)) == 1
        assert look(folder, records) == by_name(records)

    def test_a_shard_that_was_forgotten_and_made_with_other_bytes_is_not_mistaken(
        self, folder, records
    ):
        group(folder, records)
        folder.delete(f"{layout.RECORDS}/{records[7].record_file}")
        look(folder, records, compact=True)  # as the stage does before it makes what is missing
        again = commit(folder, records[7].model_copy(update={"sha256": "b" * 64}))
        assert look(folder, records) == by_name(records[:7] + again + records[8:])

    def test_a_damaged_group_is_written_again(self, folder, records):
        group(folder, records)
        (name,) = groups_of(folder)
        content = folder.read_bytes(f"{layout.COMPACTED}/{name}")
        folder.write_bytes(f"{layout.COMPACTED}/{name}", b"")
        look(folder, records, compact=True)
        assert folder.read_bytes(f"{layout.COMPACTED}/{name}") == content

    def test_a_broken_shard_is_in_no_group(self, folder, records):
        folder.delete(f"{layout.SHARDS}/{records[7].file}")
        look(folder, records, compact=True)
        (name,) = groups_of(folder)
        assert name.startswith("train-0000000-39-")

    def test_records_of_an_earlier_corpus_stay_in_their_groups(self, folder, records):
        group(folder, records)
        before = groups_of(folder)
        look(folder, records[:20], compact=True)
        assert groups_of(folder) == before

    def test_many_shards_cost_few_reads(self, folder, reads):
        records = commit(folder, *(one(ordinal) for ordinal in range(1000)))
        group(folder, records[:990])
        assert look(folder, records) == by_name(records)
        assert len(reads.names) == 8 + 10 + 1
