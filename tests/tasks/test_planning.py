import dataclasses

import pytest

from storage import layout
from storage.corpus import CorpusIndex, ShardSamples
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.options import Task
from storage.records import write_record
from tasks import intents
from tasks.planning import made_since, plan_labels
from tests.storage.test_compaction import FILE, groups_of, one

FINGERPRINT = "0123456789abcdef"


def index_of(**counts: int) -> CorpusIndex:
    shards = {
        split: tuple(
            ShardSamples(
                start=3 * place,
                rows=3,
                positions=3,
                digest=digest_of_bytes(f"{split}{place}".encode()),
            )
            for place in range(count)
        )
        for split, count in counts.items()
    }
    return CorpusIndex(
        task=Task.CLASSIFICATION,
        inputs=(),
        has_label=False,
        shards=shards,
        digests=dict.fromkeys(counts, "0" * 64),
        samples={split: 3 * count for split, count in counts.items()},
        num_labels=0,
    )


def commit(folder: Folder, plans) -> None:
    for plan in plans:
        record = one(plan.ordinal, plan.split, fingerprint=plan.fingerprint)
        folder.write_bytes(f"{layout.SHARDS}/{record.file}", FILE)
        write_record(folder, plan.record_name, record)


@pytest.fixture
def folder() -> Folder:
    folder = Folder.open("memory://planning")
    if folder.filesystem.exists(folder.path):
        folder.filesystem.rm(folder.path, recursive=True)
    return folder


INDEX = index_of(test=2, train=40)


def plan(folder: Folder, index: CorpusIndex = INDEX, compact: bool = False):
    return plan_labels(folder, FINGERPRINT, index, compact=compact)


def test_training_shards_come_first_and_are_named_by_what_they_hold(folder):
    wanted = plan(folder).wanted
    assert [shard.split for shard in wanted] == ["train"] * 40 + ["test"] * 2
    digest = INDEX.shards["train"][5].digest
    assert wanted[5].fingerprint == intents.shard(FINGERPRINT, digest)
    assert (wanted[5].start, wanted[5].rows, wanted[5].positions) == (15, 3, 3)


def test_what_is_committed_is_not_missing(folder):
    commit(folder, plan(folder).wanted[10:41])
    found = plan(folder)
    assert [shard.ordinal for shard in found.missing] == [*range(10), 1]
    assert [(record.split, record.ordinal) for record in found.records] == [
        (shard.split, shard.ordinal) for shard in found.wanted[10:41]
    ]


def test_what_was_looked_up_is_kept(folder):
    found = plan(folder)
    assert found.missing is found.missing
    assert found.records is found.records


def test_only_who_may_write_leaves_groups(folder):
    commit(folder, plan(folder).wanted)
    assert plan(folder).missing == ()
    assert groups_of(folder) == {}
    assert plan(folder, compact=True).missing == ()
    assert len(groups_of(folder)) == 1
    assert plan(folder).missing == ()


@pytest.mark.parametrize("rows", [0, 2])
def test_samples_that_were_set_aside_are_not_missing(folder, rows):
    shard = plan(folder).wanted[3]
    record = one(shard.ordinal, shard.split, fingerprint=shard.fingerprint).model_copy(
        update={
            "rows": rows,
            "row_groups": (rows,) if rows else (),
            "quarantined": 3 - rows,
            "quarantine_file": "train-0000003-00000000.parquet",
            "quarantine_sha256": "0" * 64,
        }
    )
    folder.write_bytes(f"{layout.SHARDS}/{record.file}", FILE)
    write_record(folder, shard.record_name, record)
    assert shard not in plan(folder).missing
    assert plan(folder).records == (record,)


@pytest.mark.parametrize("changes", [{"rows": 2, "row_groups": (2,)}, {"fingerprint": "f" * 16}])
def test_a_record_of_something_else_is_broken(folder, changes):
    shard = plan(folder).wanted[3]
    record = one(shard.ordinal, shard.split, fingerprint=shard.fingerprint)
    record = record.model_copy(update=changes)
    folder.write_bytes(f"{layout.SHARDS}/{record.file}", FILE)
    write_record(folder, shard.record_name, record)
    found = plan(folder)
    assert found.missing == found.wanted
    assert found.broken == {shard.record_file}


class TestMadeSince:
    def test_nothing_is_at_first(self, folder):
        first = plan(folder)
        assert made_since(folder, first, first.missing) == frozenset()
        assert made_since(folder, first, first.missing[:1]) == frozenset()
        assert made_since(folder, first, []) == frozenset()

    @pytest.mark.parametrize("asked", [1, 10])
    def test_what_was_committed_is(self, folder, asked):
        first = plan(folder)
        commit(folder, first.missing[:1])
        assert made_since(folder, first, first.missing[:asked]) == {first.missing[0]}

    @pytest.mark.parametrize("asked", [1, 10])
    def test_a_broken_record_is_not_until_it_is_whole(self, folder, asked):
        shard = plan(folder).wanted[0]
        folder.write_bytes(shard.record_name, b"broken")
        first = plan(folder)
        assert made_since(folder, first, first.missing[:asked]) == frozenset()
        commit(folder, [shard])
        assert made_since(folder, first, first.missing[:asked]) == {shard}

    def test_a_record_of_other_samples_under_the_name_is_not(self, folder):
        first = plan(folder)
        shard = first.missing[0]
        commit(folder, [shard])
        folder.delete(f"{layout.SHARDS}/{one(0).file}")
        again = plan(folder)
        other = dataclasses.replace(shard, rows=2)
        commit(folder, [shard])
        assert made_since(folder, again, [shard]) == {shard}
        assert made_since(folder, again, [other]) == frozenset()
