import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import layout, reader
from storage.encoding import encode
from storage.errors import IntegrityError, MissingProductError, StoreError
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.reader import LabelSet
from storage.records import Manifest, seal, write_record
from storage.rows import Ragged, concatenate, num_rows
from tests.storage.refusal import refused
from tests.storage.toy import token_spec, toy_rows, toy_spec, write_toy_set

REPAIR = "softlabel verify"


def everything(labels: LabelSet, split: str) -> dict:
    return concatenate(list(labels.batches(split)))


def path_of(labels: LabelSet, split: str = "train", ordinal: int = 0) -> Path:
    return Path(labels.url_of(labels.shards(split)[ordinal]))


class TestOpen:
    def test_it_says_what_it_is(self, labels):
        assert labels.spec == toy_spec()
        assert labels.splits == ("train", "test")
        assert labels.digest == labels.manifest.digest
        assert [shard.rows for shard in labels.shards("train")] == [6, 4]
        assert [shard.row_groups for shard in labels.shards("train")] == [(4, 2), (4,)]

    def test_it_opens_by_url_and_by_folder(self, labels):
        assert LabelSet.open(labels.folder.url).digest == labels.digest
        assert LabelSet.open(labels.folder).digest == labels.digest

    def test_it_reads_from_an_object_store(self):
        labels = write_toy_set(Folder.open("memory://reader"))
        assert everything(labels, "train")["sample_id"][0] == "train-0"
        labels.close()

    def test_nothing_there_says_which_stage_to_run(self, tmp_path):
        with refused(MissingProductError, str(tmp_path), layout.MANIFEST, "run the label stage"):
            LabelSet.open(str(tmp_path))

    def test_an_unfinished_set_is_none(self, labels):
        labels.folder.delete(layout.MANIFEST)
        with refused(MissingProductError, "no finished label set", "run the label stage"):
            LabelSet.open(labels.folder)

    def test_an_unknown_protocol_is_a_store_error(self):
        with refused(StoreError, "nowhere"):
            LabelSet.open("nowhere://labels")

    def test_a_damaged_manifest_is_refused(self, labels):
        content = labels.folder.read_bytes(layout.MANIFEST)
        labels.folder.write_bytes(layout.MANIFEST, content.replace(b'"rows": 6', b'"rows": 7'))
        with refused(IntegrityError, labels.folder.url_of(layout.MANIFEST)):
            LabelSet.open(labels.folder)

    def test_a_newer_format_is_refused(self, labels):
        content = labels.manifest.model_dump(mode="json") | {"format_version": 5}
        labels.folder.write_bytes(layout.MANIFEST, seal(content))
        with refused(IntegrityError, "format version 5", "up to 4", "use a newer softlabel"):
            LabelSet.open(labels.folder)


class TestStates:
    def test_an_earlier_state_is_read_by_its_digest(self, store):
        before = write_toy_set(store, train=8)
        after = write_toy_set(store, train=10)
        assert before.digest != after.digest
        assert LabelSet.open(after.folder).digest == after.digest
        earlier = LabelSet.open(after.folder, before.digest)
        assert num_rows(everything(earlier, "train")) == 8
        assert num_rows(everything(after, "train")) == 10

    def test_states_share_the_shards_that_did_not_change(self, store):
        before = write_toy_set(store, train=8)
        after = write_toy_set(store, train=10)
        assert before.shards("train")[0] == after.shards("train")[0]
        assert before.shards("train")[1].file != after.shards("train")[1].file
        assert before.shards("test") == after.shards("test")

    def test_an_unknown_digest_is_missing(self, labels):
        with refused(MissingProductError, "0" * 64, labels.folder.url):
            LabelSet.open(labels.folder, "0" * 64)

    def test_a_state_under_the_digest_of_another_is_refused(self, store):
        before = write_toy_set(store, train=8)
        after = write_toy_set(store, train=10)
        names = [f"{layout.MANIFESTS}/{state.digest}.json" for state in (before, after)]
        after.folder.write_bytes(names[0], after.folder.read_bytes(names[1]))
        with refused(IntegrityError, after.folder.url_of(names[0])):
            LabelSet.open(after.folder, before.digest)


class TestRead:
    @pytest.mark.parametrize("spec", [toy_spec(statistics=True), token_spec()])
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_what_was_written_is_read_in_its_order(self, store, spec, split):
        labels = write_toy_set(store, spec)
        found = everything(labels, split)
        expected = toy_rows(spec, split, range(10 if split == "train" else 4))
        assert found.keys() == expected.keys()
        for name, column in expected.items():
            values, wanted = (
                c.values_NW if isinstance(c, Ragged) else c for c in (found[name], column)
            )
            if name == "sample_id":
                assert values.tolist() == wanted.tolist()
            else:
                np.testing.assert_allclose(values, wanted, rtol=1e-6)
        labels.close()

    def test_a_row_group_is_read_alone(self, labels):
        rows = labels.read(labels.shards("train")[0], 1, ["sample_id", "index"])
        assert rows["sample_id"].tolist() == ["train-4", "train-5"]
        assert rows["index"].tolist() == [[4, 0, 1], [0, 1, 2]]
        assert rows["index"].dtype == np.int64

    def test_all_columns_are_named(self, labels):
        expected = ["sample_id", "input.x", "index", "logit", "rest", "label", "label_logit"]
        assert labels.columns("train") == expected

    def test_a_missing_split_lists_those_there(self, labels):
        with refused(MissingProductError, "'validation'", "train, test", labels.folder.url):
            labels.shards("validation")
        with refused(MissingProductError, "'validation'", "train, test"):
            next(labels.batches("validation"))

    def test_more_shards_than_can_be_open_are_read(self, store, monkeypatch):
        monkeypatch.setattr(reader, "_MAX_OPEN_SHARDS", 2)
        labels = write_toy_set(store, rows_per_shard=2)
        for _ in range(2):
            assert num_rows(everything(labels, "train")) == 10
        labels.close()

    def test_it_can_be_read_again_after_closing(self, labels):
        everything(labels, "train")
        labels.close()
        assert num_rows(everything(labels, "train")) == 10

    def test_columns_of_a_later_version_are_ignored(self, labels):
        shard = labels.shards("test")[0]
        table = encode(toy_rows(labels.spec, "test", range(4)), labels.spec, "test").table
        sink = pa.BufferOutputStream()
        pq.write_table(table.append_column("view_seed", pa.array([1, 2, 3, 4])), sink)
        content = bytes(sink.getvalue())
        changes = {"size_bytes": len(content), "sha256": digest_of_bytes(content)}
        labels.folder.write_bytes(f"{layout.SHARDS}/{shard.file}", content)
        shards = (*labels.shards("train"), shard.model_copy(update=changes))
        manifest = Manifest.of(labels.manifest.fingerprint, labels.spec, shards, {})
        write_record(labels.folder, layout.MANIFEST, manifest)
        with_more = LabelSet.open(labels.folder)
        assert list(everything(with_more, "test")) == labels.columns("test")
        with_more.close()


class TestDamage:
    def test_any_changed_byte_is_found_when_a_shard_is_opened(self, labels):
        path = path_of(labels)
        content = path.read_bytes()
        draw = random.Random(0)
        for _ in range(100):
            damaged = bytearray(content)
            damaged[draw.randrange(len(content))] ^= draw.randrange(1, 256)
            path.write_bytes(damaged)
            with refused(IntegrityError, str(path), "sha256", REPAIR, labels.folder.url):
                next(LabelSet.open(labels.folder).batches("train"))

    @pytest.mark.parametrize("kept", [0, 1, 100, -1])
    def test_a_truncated_shard_is_refused(self, labels, kept):
        path = path_of(labels)
        path.write_bytes(path.read_bytes()[:kept])
        with refused(IntegrityError, str(path), REPAIR):
            next(labels.batches("train"))

    def test_a_deleted_shard_is_refused(self, labels):
        path_of(labels).unlink()
        with refused(IntegrityError, str(path_of(labels)), "missing", REPAIR):
            next(labels.batches("train"))

    def test_swapped_shards_are_refused(self, labels):
        first, second = path_of(labels), path_of(labels, ordinal=1)
        contents = first.read_bytes(), second.read_bytes()
        second.write_bytes(contents[0])
        first.write_bytes(contents[1])
        with refused(IntegrityError, str(first), REPAIR):
            next(labels.batches("train"))

    def test_other_shards_can_still_be_read(self, labels):
        path_of(labels).unlink()
        assert num_rows(everything(labels, "test")) == 4

    def test_damage_after_opening_is_found_by_the_pages_own_checksums(self, labels):
        shard = labels.shards("train")[0]
        labels.check(shard)
        content = bytearray(path_of(labels).read_bytes())
        content[20] ^= 0xFF
        path_of(labels).write_bytes(content)
        with refused(IntegrityError, str(path_of(labels)), REPAIR):
            labels.read(shard, 0)

    def test_a_row_group_that_is_not_there_is_refused(self, labels):
        with refused(IntegrityError, str(path_of(labels))):
            labels.read(labels.shards("train")[0], 9)
