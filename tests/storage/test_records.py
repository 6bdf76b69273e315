import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import layout
from storage.errors import IntegrityError, StoreError
from storage.identity import canonical_json, digest_of_digests
from storage.records import Manifest, ShardRecord, parse, read_record, seal, unseal, write_record
from storage.spec import FORMAT_VERSION
from tests.storage.refusal import refused
from tests.storage.test_identity import JSON
from tests.storage.toy import SET_FINGERPRINT, toy_spec

CONTENT = {"small": 1e-05, "digits": 0.30000000000000004, "text": "é", "none": None, "list": [1, 2]}


def shard(split="train", ordinal=0, **changes) -> ShardRecord:
    record = ShardRecord(
        fingerprint="f" * 16,
        split=split,
        ordinal=ordinal,
        file=layout.shard_file(split, ordinal, "c" * 64),
        rows=3,
        positions=3,
        row_groups=(3,),
        size_bytes=100,
        sha256="a" * 64,
        content_digest=f"{split}{ordinal}",
        first_id="0",
        last_id="2",
        fidelity={"mass": 0.5},
    )
    return record.model_copy(update=changes)


def manifest(*shards: ShardRecord) -> Manifest:
    return Manifest.of(SET_FINGERPRINT, toy_spec(), shards, {})


class TestSeal:
    @given(st.dictionaries(st.text(max_size=3), JSON))
    def test_what_is_sealed_is_unsealed(self, content):
        content.pop("checksum", None)
        assert canonical_json(unseal(seal(content), "here")) == canonical_json(content)

    def test_people_can_read_it(self):
        assert b'\n "text": "\xc3\xa9"' in seal(CONTENT)
        assert len(json.loads(seal(CONTENT))["checksum"]) == 64

    def test_equal_content_gives_equal_bytes(self):
        assert seal(CONTENT) == seal(dict(reversed(CONTENT.items())))

    def test_any_changed_byte_is_found(self):
        sealed = seal(CONTENT)
        for place in range(len(sealed)):
            for mask in (0x01, 0x02, 0x04, 0x20, 0x80, 0xFF):
                damaged = bytearray(sealed)
                damaged[place] ^= mask
                with refused(IntegrityError, "here.json"):
                    unseal(bytes(damaged), "here.json")

    @pytest.mark.parametrize(
        ("old", "new"),
        [(b"1e-05", b"1E-05"), (b"004", b"003"), (b"\n", b" "), (b"1e-05", b"1e905")],
    )
    def test_a_change_that_means_the_same_or_nothing_is_found_too(self, old, new):
        with refused(IntegrityError, "here.json"):
            unseal(seal(CONTENT).replace(old, new, 1), "here.json")

    @pytest.mark.parametrize("kept", [0, 1, 10, -1])
    def test_a_record_cut_short_is_found(self, kept):
        with refused(IntegrityError, "here.json"):
            unseal(seal(CONTENT)[:kept], "here.json")

    @pytest.mark.parametrize("content", [b"[]", b"1", b"null", b"{}", b'{"checksum": 1}', b"\xff"])
    def test_what_is_no_record_is_refused(self, content):
        with refused(IntegrityError, "here.json"):
            unseal(content, "here.json")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_are_not_finite_are_never_stored(self, value):
        with pytest.raises(ValueError, match="JSON compliant"):
            seal({"a": value})


class TestReadAndWrite:
    def test_a_record_comes_back(self, store):
        write_record(store, "records/a.json", shard())
        url = store.url_of("records/a.json")
        assert parse(ShardRecord, read_record(store, "records/a.json"), url) == shard()

    def test_a_missing_record_is_a_store_error(self, store):
        with refused(StoreError, store.url_of("a.json"), "no such file"):
            read_record(store, "a.json")


class TestParse:
    def test_a_newer_format_is_refused(self):
        content = manifest(shard()).model_dump(mode="json") | {"format_version": FORMAT_VERSION + 1}
        with refused(IntegrityError, "here", str(FORMAT_VERSION + 1), "use a newer softlabel"):
            parse(Manifest, content, "here")

    @pytest.mark.parametrize("version", ["one", None, 1.5])
    def test_a_format_that_is_no_number_is_refused(self, version):
        with refused(IntegrityError, "here", "format version"):
            parse(Manifest, {"format_version": version}, "here")

    def test_keys_of_a_later_version_are_ignored(self):
        content = shard().model_dump(mode="json") | {"view": 3}
        assert parse(ShardRecord, content, "here") == shard()

    def test_another_form_says_which_field(self):
        content = shard().model_dump(mode="json") | {"rows": "many"}
        with refused(IntegrityError, "here", "rows", "integer"):
            parse(ShardRecord, content, "here")


class TestManifest:
    SHARDS = (shard("test", 0), shard("train", 1), shard("a"), shard("train", 0))

    def manifest(self, shards):
        spec = toy_spec(entries={"a": 1, "test": 5, "train": 3})
        return Manifest.of(SET_FINGERPRINT, spec, shards, {})

    def test_training_comes_first_then_the_splits_by_name(self):
        found = self.manifest(self.SHARDS)
        assert [(s.split, s.ordinal) for s in found.shards] == [
            ("train", 0), ("train", 1), ("a", 0), ("test", 0),
        ]  # fmt: skip

    def test_the_digest_is_over_the_shards_in_their_order(self):
        found = self.manifest(self.SHARDS)
        assert found.digest == digest_of_digests(["train0", "train1", "a0", "test0"])
        assert self.manifest(self.SHARDS[::-1]) == found

    def test_the_digest_does_not_depend_on_the_files_bytes(self):
        other = shard(sha256="b" * 64, size_bytes=101, file="other.parquet")
        assert manifest(other).digest == manifest(shard()).digest

    def test_it_sums_up_its_shards(self):
        found = self.manifest(self.SHARDS)
        assert found.positions == 12
        assert found.size_bytes == 400
        assert [s.ordinal for s in found.of_split("train")] == [0, 1]
        assert found.of_split("none") == ()

    def test_it_survives_json(self):
        found = self.manifest(self.SHARDS)
        assert parse(Manifest, unseal(seal(found.model_dump(mode="json")), "x"), "x") == found
