import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import layout
from storage.errors import StoreError
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.options import Codec, Layout
from storage.records import ShardRecord, parse, read_record
from storage.rows import take
from storage.writer import ranges, row_groups, write_shard
from tests.storage.refusal import refused
from tests.storage.toy import (
    token_spec,
    toy_plan,
    toy_rows,
    toy_spec,
    write_toy_set,
    write_toy_shard,
)

PLAIN, FAST, COMPACT = Layout
F32, F16, U8 = Codec
LENGTHS = st.lists(st.integers(0, 9), max_size=12)
GOLDEN_DIGESTS = [
    (PLAIN, F16, "83e2492e1433db3448addaedc73681c3fe014a6b3c01d9ed8894b4fc26de2bb7"),
    (PLAIN, U8, "66a4d3cea0d01b5722af6f0fe71d3f26f49887d66bb3977b5dad134d0ab7d7a6"),
    (FAST, F32, "4ddc3cd51caa1bcc7d6ea30f2ef10449d51670396e936c3e2ec48de5e1e0f3f3"),
    (COMPACT, F16, "b53d5cfa3885eaff76d9ebd24322f511edd08d0e9c03a5052818228794a1f3ea"),
    (COMPACT, U8, "1d3f4e9b46a417244cd284808908e0aaa54574caa1fc515c4414154f0b53adfa"),
]
GOLDEN_BLOCKS_DIGEST = "abf1e9b7d5ea386659183414154c47fe1f8a75973991610d177f616647e7b34f"


class TestRanges:
    @given(LENGTHS, st.integers(1, 12))
    def test_they_cover_every_sample_once_and_in_order(self, lengths, limit):
        found = ranges(np.array(lengths, np.int64), limit)
        assert [place for start, stop in found for place in range(start, stop)] == list(
            range(len(lengths))
        )

    @given(LENGTHS, st.integers(1, 12))
    def test_each_holds_as_many_as_fit_and_at_least_one(self, lengths, limit):
        for start, stop in ranges(np.array(lengths, np.int64), limit):
            assert stop == start + 1 or sum(lengths[start:stop]) <= limit
            assert stop == len(lengths) or sum(lengths[start : stop + 1]) > limit

    @given(LENGTHS, LENGTHS, st.integers(1, 12))
    def test_appending_changes_the_last_one_at_most(self, lengths, more, limit):
        before = ranges(np.array(lengths, np.int64), limit)
        after = ranges(np.array(lengths + more, np.int64), limit)
        assert after[: len(before[:-1])] == before[:-1]


class TestRowGroups:
    def test_they_respect_the_limit_of_positions(self):
        assert row_groups(np.ones(10, np.int64), 4) == [4, 4, 2]
        assert row_groups(np.array([3, 3, 3, 9, 1]), 6) == [2, 1, 1, 1]

    @pytest.mark.parametrize("spec", [toy_spec(), token_spec()])
    def test_the_file_has_those_of_the_record(self, store, spec):
        record = write_toy_shard(store, spec, "train", 0, range(10))
        file = pq.ParquetFile(f"{store.path}/{layout.SHARDS}/{record.file}")
        groups = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
        assert tuple(groups) == record.row_groups
        for group in range(len(groups)):
            rests = file.read_row_group(group, columns=["rest"]).column("rest")
            positions = sum(map(len, rests.to_pylist())) // len(spec.temperatures)
            assert positions <= spec.positions_per_row_group or groups[group] == 1


class TestWriteShard:
    def test_the_record_says_what_is_there(self, store):
        record = write_toy_shard(store, toy_spec(), "train", 2, range(6))
        content = store.read_bytes(f"shards/{record.file}")
        assert record == ShardRecord(
            fingerprint=toy_plan("train", 2, 0, 6).fingerprint,
            split="train",
            ordinal=2,
            file=f"train-0000002-{record.content_digest[:8]}.parquet",
            rows=6,
            positions=6,
            row_groups=(4, 2),
            size_bytes=len(content),
            sha256=digest_of_bytes(content),
            content_digest=record.content_digest,
            first_id="train-0",
            last_id="train-5",
            fidelity={"mass": 0.5},
        )

    def test_the_record_is_stored_beside_the_shard(self, store):
        record = write_toy_shard(store, toy_spec(), "train", 2, range(6))
        (name,) = (store / layout.RECORDS).sizes()
        assert name == f"train-0000002-{record.fingerprint[:8]}.json"
        assert parse(ShardRecord, read_record(store / layout.RECORDS, name), name) == record
        assert (store / layout.SHARDS).sizes() == {record.file: record.size_bytes}

    def test_positions_of_blocks_are_counted(self, store):
        record = write_toy_shard(store, token_spec(), "train", 0, range(5))
        assert (record.rows, record.positions) == (5, 1 + 2 + 3 + 1 + 2)

    def test_writing_again_changes_nothing(self, store):
        first = write_toy_shard(store, toy_spec(), "train", 0, range(6))
        content = store.read_bytes(f"shards/{first.file}")
        assert write_toy_shard(store, toy_spec(), "train", 0, range(6)) == first
        assert store.read_bytes(f"shards/{first.file}") == content
        assert len((store / layout.SHARDS).sizes()) == 1

    def test_every_back_end_gets_the_same_bytes(self, store):
        memory = Folder.open("memory://writer")
        there = write_toy_shard(memory, toy_spec(), "train", 0, range(6))
        assert write_toy_shard(store, toy_spec(), "train", 0, range(6)) == there

    def test_the_file_comes_before_its_record(self, store):
        store.write_bytes(layout.RECORDS, b"no folder")
        with refused(StoreError, layout.RECORDS):
            write_toy_shard(store, toy_spec(), "train", 0, range(6))
        assert len((store / layout.SHARDS).sizes()) == 1

    def test_without_the_file_there_is_no_record(self, store):
        store.write_bytes(layout.SHARDS, b"no folder")
        with refused(StoreError, layout.SHARDS):
            write_toy_shard(store, toy_spec(), "train", 0, range(6))
        assert (store / layout.RECORDS).sizes() == {}


class TestContentDigest:
    def digest(self, store, rows=None, **changes):
        spec = toy_spec(**changes)
        rows = toy_rows(spec, "train", range(6)) if rows is None else rows
        return write_shard(store, toy_plan("train", 0, 0, 6), spec, rows, {}).content_digest

    def test_equal_content_gives_an_equal_digest(self, store):
        assert self.digest(store) == self.digest(store / "elsewhere")

    @pytest.mark.parametrize(
        "changes",
        [
            {"codec": Codec.FLOAT32},
            {"positions_per_row_group": 3},
            {"num_classes": 257},
            {"temperatures": (2.0, 4.0)},
            {"has_label": False},
            {"statistics": True},
        ],
    )
    def test_another_specification_changes_it(self, store, changes):
        assert self.digest(store, **changes) != self.digest(store)

    @pytest.mark.parametrize(
        "name", ["sample_id", "input.x", "index", "logit", "rest", "label", "label_logit"]
    )
    def test_any_changed_number_changes_it(self, store, name):
        rows = dict(toy_rows(toy_spec(), "train", range(6)))
        column = rows[name].copy()
        column[3] = column[3] * 2 if name == "sample_id" else column[3] - 1
        before = self.digest(store, rows)
        assert self.digest(store, rows | {name: column}) != before

    def test_the_order_of_samples_changes_it(self, store):
        rows = toy_rows(toy_spec(), "train", range(6))
        assert self.digest(store, take(rows, np.array([1, 0, 2, 3, 4, 5]))) != self.digest(store)

    def test_the_teachers_precision_beyond_the_codec_does_not(self, store):
        rows = dict(toy_rows(toy_spec(), "train", range(6)))
        rows["logit"] = rows["logit"] * (1 + 1e-7)
        assert self.digest(store, rows) == self.digest(store)


class TestGoldenDigest:
    """A change of these means that the stored bytes changed: bump the code's version with it."""

    @pytest.mark.parametrize(("layout", "codec", "digest"), GOLDEN_DIGESTS)
    def test_of_single_positions(self, store, layout, codec, digest):
        assert write_toy_set(store, toy_spec(layout=layout, codec=codec)).digest == digest

    def test_of_blocks(self, store):
        assert write_toy_set(store, token_spec(statistics=True)).digest == GOLDEN_BLOCKS_DIGEST
