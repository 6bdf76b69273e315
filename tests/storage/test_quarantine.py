"""Samples that are set aside: their list, the shard that misses them, and who reads either."""

import random
from pathlib import Path

import pytest

from storage import layout
from storage.errors import DataError, IntegrityError
from storage.export import ExportFormat, ExportPlan, export
from storage.files import Folder
from storage.options import Codec, Keep, Layout, Task
from storage.quarantine import (
    BadSample,
    frequent_reasons,
    read_quarantine,
    require_few_bad,
    write_quarantine,
)
from storage.records import ShardRecord, parse, read_record, seal
from storage.sizes import part_sizes
from storage.summary import describe_quarantine
from storage.verify import verify
from storage.writer import write_shard
from tests.storage import format_reader
from tests.storage.kinds import spec_of_kind
from tests.storage.refusal import refused
from tests.storage.toy import token_spec, toy_plan, toy_spec, write_toy_set, write_toy_shard

BAD = (1, 3, 6, 7, 8, 9)
"""Two samples of the first shard of six, and all four of the second."""


@pytest.fixture
def labels(store):
    return write_toy_set(store, bad=BAD)


def quarantines(labels) -> list[Path]:
    return sorted(Path(labels.folder.path, layout.QUARANTINE).iterdir())


def test_a_list_comes_back_in_the_order_of_its_places(store):
    bad = [BadSample(9, "b", "cannot be\n decoded"), BadSample(2, "a", "Ärger")]
    plan = toy_plan("train", 3, 0, 10)
    name, sha256 = write_quarantine(store, plan, bad)
    assert name == f"train-0000003-{sha256[:8]}.parquet"
    record = write_toy_shard(store, toy_spec(), "train", 3, range(2)).model_copy(
        update={"quarantined": 2, "quarantine_file": name, "quarantine_sha256": sha256}
    )
    found = read_quarantine(store, record)
    assert found == [bad[1], BadSample(9, "b", "cannot be decoded")]


@pytest.mark.parametrize("spec", [toy_spec(), token_spec(statistics=True)])
@pytest.mark.parametrize("bad", [(0,), (2, 5), range(6)])
def test_rows_and_bad_samples_make_up_the_shard(store, spec, bad):
    record = write_toy_shard(store, spec, "train", 0, range(6), bad)
    good = [number for number in range(6) if number not in bad]
    assert (record.rows, record.quarantined) == (len(good), len(bad))
    assert (record.first_id, record.last_id) == (
        (f"train-{good[0]}", f"train-{good[-1]}") if good else ("", "")
    )
    assert [sample.place for sample in read_quarantine(store, record)] == list(bad)
    assert parse(ShardRecord, read_record(store, f"records/{record.record_file}"), "") == record


def test_the_digest_is_that_of_the_rows(store):
    first = write_toy_shard(store, toy_spec(), "train", 0, range(6), [5])
    again = write_toy_shard(store / "again", toy_spec(), "train", 0, range(5))
    assert first.content_digest == again.content_digest


def test_a_shard_of_other_samples_than_its_plan_is_refused(store):
    plan = toy_plan("train", 0, 0, 3)
    with pytest.raises(ValueError, match="expected 3 samples, got 0 rows and 1 bad ones"):
        write_shard(store, plan, toy_spec(), {}, {}, [BadSample(0, "a", "bad")])
    assert store.sizes() == {}


def test_a_record_without_any_is_as_it_was_before_there_were_quarantines(store):
    record = write_toy_shard(store, toy_spec(), "train", 0, range(6))
    content = record.model_dump(mode="json")
    assert not [key for key in content if "quarantine" in key]
    assert ShardRecord.model_validate(content) == record
    assert store.read_bytes(f"records/{record.record_file}") == seal(content)


@pytest.mark.parametrize(
    "changes",
    [{"quarantined": 1}, {"quarantine_file": "train-0000000-00000000.parquet"}],
)
def test_a_record_that_names_no_list_of_them_is_refused(store, changes):
    content = write_toy_shard(store, toy_spec(), "train", 0, range(6)).model_dump(mode="json")
    with refused(IntegrityError, "quarantined: expected a file and its sha256"):
        parse(ShardRecord, content | changes, "record")


class TestSet:
    def test_it_says_how_many_and_why(self, labels):
        assert labels.manifest.quarantined == labels.describe()["quarantined"] == len(BAD)
        assert labels.describe()["samples"] == {"train": 4, "test": 4}
        assert frequent_reasons(labels.folder, labels.manifest.shards) == [
            ("reason 1", 4),
            ("reason 0", 2),
        ]
        assert describe_quarantine(labels)["samples"] == {"train": 6}
        assert frequent_reasons(labels.folder, labels.manifest.shards, 1) == [("reason 1", 4)]

    def test_without_any_it_says_nothing(self, store):
        labels = write_toy_set(store)
        assert describe_quarantine(labels) == {}
        assert labels.describe()["quarantined"] == 0
        assert not labels.folder.exists(layout.QUARANTINE)

    @pytest.mark.parametrize("form", Layout)
    @pytest.mark.parametrize("codec", Codec)
    @pytest.mark.parametrize("keep", Keep)
    @pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.CAUSAL_LM])
    def test_a_shard_without_rows_is_no_fault_whatever_its_form(
        self, store, keep, codec, form, task
    ):
        spec = spec_of_kind(keep, codec, form, task)
        bad = [BadSample(0, "a", "bad")]
        record = write_shard(store, toy_plan("train", 0, 0, 1), spec, {}, {}, bad)
        assert (record.rows, record.positions, record.row_groups) == (0, 0, ())
        labels = write_toy_set(store / "set", bad=range(10))
        swapped = labels.manifest.model_copy(update={"spec": spec, "shards": (record,)})
        reopened = type(labels)(store, swapped)
        assert list(reopened.batches("train")) == []
        assert part_sizes(reopened, "train").positions == 0
        reopened.check(record)
        reopened.close()

    @pytest.mark.parametrize("spec", [toy_spec(), token_spec()])
    def test_it_is_whole(self, store, spec):
        labels = write_toy_set(store, spec, bad=BAD)
        assert list(verify(labels.folder)) == []
        names = [name for rows in labels.batches("train") for name in rows["sample_id"]]
        assert names == ["train-0", "train-2", "train-4", "train-5"]
        assert sum(map(len, (rows["sample_id"] for rows in labels.batches("test")))) == 4

    def test_it_can_be_exported(self, labels, tmp_path):
        plan = ExportPlan.of(labels, ExportFormat.PORTABLE)
        index = export(plan, Folder.open(tmp_path / "there"))
        assert index["rows"] == {"train": 4, "test": 4}
        labels.close()

    def test_another_reader_sees_the_same(self, labels):
        manifest, samples = format_reader.read_set(labels.folder.path)
        assert manifest["digest"] == labels.digest
        assert len(samples["train"]) == 4
        assert format_reader.set_aside(labels.folder.path) == [
            (f"train-{place}", "train", place, f"reason {place % 2}") for place in BAD
        ]

    def test_any_changed_byte_of_a_list_is_one_fault_that_names_its_shard(self, labels):
        draw = random.Random(0)
        for path in quarantines(labels):
            content = path.read_bytes()
            for _ in range(10):
                damaged = bytearray(content)
                damaged[draw.randrange(len(content))] ^= draw.randrange(1, 256)
                path.write_bytes(damaged)
                (fault,) = verify(labels.folder)
                assert fault.url == str(path)
                assert fault.shard is not None
                assert fault.shard.quarantine_file == path.name
                assert "damaged" in fault.problem
            path.write_bytes(content)

    def test_a_list_that_is_gone_is_one_fault(self, labels):
        path = quarantines(labels)[0]
        path.unlink()
        (fault,) = verify(labels.folder)
        assert (fault.url, fault.problem) == (str(path), "is missing")

    def test_a_list_of_something_else_is_refused(self, labels):
        first, second = labels.shards("train")
        other = {key: getattr(second, key) for key in ("quarantine_file", "quarantine_sha256")}
        with refused(IntegrityError, "does not list the 2 samples set aside"):
            read_quarantine(labels.folder, first.model_copy(update=other))


class TestLimit:
    @pytest.mark.parametrize(("bad", "limit"), [(0, 0.0), (1, 0.01), (100, 1.0)])
    def test_as_many_as_allowed_are_allowed(self, bad, limit):
        require_few_bad([], bad, 100, limit)

    def test_more_are_refused_with_one_of_them(self):
        with refused(
            DataError, "labels.max_bad: 2 of 100 samples", "share 0.01", "'a': is not finite"
        ):
            require_few_bad([BadSample(3, "a", "is  not finite")], 2, 100, 0.01)
