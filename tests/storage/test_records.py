import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import layout
from storage.errors import IntegrityError, StoreError
from storage.identity import canonical_json, digest_of_bytes, digest_of_digests
from storage.options import Codec
from storage.records import Manifest, ShardRecord, parse, read_record, seal, unseal, write_record
from storage.spec import NEWEST_FORMAT_VERSION
from tests.storage.refusal import refused
from tests.storage.test_identity import JSON
from tests.storage.toy import SET_FINGERPRINT, kept, toy_spec

CONTENT = {"small": 1e-05, "digits": 0.30000000000000004, "text": "é", "none": None, "list": [1, 2]}


def content_digest(split, ordinal) -> str:
    return digest_of_bytes(f"{split}{ordinal}".encode())


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
        content_digest=content_digest(split, ordinal),
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

    def test_every_key_has_a_line_and_so_has_every_object_of_a_list(self):
        content = {"b": [{"x": 1, "y": [{}]}, {"x": 2}], "a": {"d": {"e": 1}, "c": [1, 2]}, "f": []}
        lines = seal(content).decode().splitlines()
        assert lines[0] == "{"
        assert lines[1].startswith(' "checksum": "')
        assert lines[2:] == [
            ' "a": {',
            '  "c": [1, 2],',
            '  "d": {"e": 1}',
            " },",
            ' "b": [',
            '  {"x": 1, "y": [{}]},',
            '  {"x": 2}',
            " ],",
            ' "f": []',
            "}",
        ]

    def test_nothing_is_sealed_too(self):
        assert unseal(seal({}), "here") == {}

    def test_values_of_the_program_are_said_as_plain_ones(self):
        content = {"codec": Codec.FLOAT16, "shape": (1, 2), "count": np.int64(3), "of": {1: [{}]}}
        expected = {"codec": "float16", "shape": [1, 2], "count": 3, "of": {"1": [{}]}}
        assert unseal(seal(content), "here") == expected

    def test_a_checksum_of_ones_own_is_refused(self):
        with pytest.raises(ValueError, match="'checksum'"):
            seal({"checksum": "a"})

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

    def test_a_record_cut_short_anywhere_is_found(self):
        sealed = seal(CONTENT)
        for length in range(len(sealed)):
            with refused(IntegrityError, "here.json"):
                unseal(sealed[:length], "here.json")

    @pytest.mark.parametrize("more", [b"\n", b" ", b"{}", b"\x00"])
    def test_more_at_the_end_is_found(self, more):
        with refused(IntegrityError, "here.json"):
            unseal(seal(CONTENT) + more, "here.json")

    @pytest.mark.parametrize(
        "rest",
        [
            b'",\n "a": 1,\n "a": 2\n}\n',
            b'",\n "a": {"b": 1, "b": 1}\n}\n',
            b'",\n "checksum": "b"\n}\n',
            b'",\n "a": NaN\n}\n',
            b'",\n "a": -Infinity\n}\n',
            b'",\n "a": ' + b"[" * 100_000,
            b'",\n "a": \xff\n}\n',
            b'",\n "a": 1\n',
            b'x"\n}\n',
        ],
        ids=lambda rest: rest[:24],
    )
    def test_what_seal_never_gives_is_refused_though_its_checksum_is_right(self, rest):
        head = b'{\n "checksum": "'
        checksum = digest_of_bytes(head + b"0" * 64 + rest).encode()
        with refused(IntegrityError, "here.json"):
            unseal(head + checksum + rest, "here.json")

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
        content = manifest(shard()).model_dump(mode="json") | {
            "format_version": NEWEST_FORMAT_VERSION + 1
        }
        with refused(
            IntegrityError, "here", str(NEWEST_FORMAT_VERSION + 1), "use a newer softlabel"
        ):
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

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("file", "../../secret"),
            ("file", "train/0000000-cccccccc.parquet"),
            ("file", "/train-0000000-cccccccc.parquet"),
            ("file", "train-0000000-cccccccc.parquet\n"),
            ("file", "train-0000000-cccccccc.parquet/../x"),
            ("file", "train-0000000-CCCCCCCC.parquet"),
            ("file", ""),
            ("split", "../train"),
            ("split", ""),
            ("ordinal", -1),
            ("rows", -3),
            ("rows", True),
            ("rows", 3.0),
            ("rows", "3"),
            ("positions", -1),
            ("positions", 2**63),
            ("size_bytes", -1),
            ("size_bytes", 10**400),
            ("row_groups", [4, -1]),
            ("row_groups", [2]),
            ("row_groups", []),
            ("row_groups", {"3": 3}),
            ("row_groups", 3),
            ("sha256", "a" * 63),
            ("sha256", "g" * 64),
            ("content_digest", "a" * 65),
            ("fingerprint", "f" * 15),
            ("fingerprint", None),
            ("first_id", 1),
            ("fidelity", []),
        ],
    )
    def test_what_no_shard_can_be_is_refused_by_name(self, field, value):
        content = shard().model_dump(mode="json") | {field: value}
        with refused(IntegrityError, "here", field):
            parse(ShardRecord, content, "here")

    @pytest.mark.parametrize(("field", "value"), [("digest", "../x"), ("fingerprint", "a/b")])
    def test_what_no_manifest_can_be_is_refused_by_name(self, field, value):
        content = manifest(shard()).model_dump(mode="json") | {field: value}
        with refused(IntegrityError, "here", field):
            parse(Manifest, content, "here")

    def test_a_shard_that_cannot_be_is_found_in_a_manifest(self):
        content = manifest(shard(), shard("test")).model_dump(mode="json")
        content["shards"][1]["file"] = "../secret"
        with refused(IntegrityError, "here", "shards.1.file"):
            parse(Manifest, content, "here")

    def test_the_largest_numbers_are_read(self):
        content = shard().model_dump(mode="json") | {"size_bytes": 2**63 - 1, "ordinal": 10**9}
        assert parse(ShardRecord, content, "here").size_bytes == 2**63 - 1

    def test_the_name_of_its_file_is_one_that_the_layout_gives(self):
        name = layout.shard_file("a_1", 10**9, "0" * 64)
        assert parse(ShardRecord, shard(file=name).model_dump(mode="json"), "here").file == name


class TestManifest:
    SHARDS = (shard("test", 0), shard("train", 1), shard("a"), shard("train", 0))

    def manifest(self, shards):
        spec = toy_spec(selections=kept(a=1, test=5, train=3))
        return Manifest.of(SET_FINGERPRINT, spec, shards, {})

    def test_training_comes_first_then_the_splits_by_name(self):
        found = self.manifest(self.SHARDS)
        assert [(s.split, s.ordinal) for s in found.shards] == [
            ("train", 0), ("train", 1), ("a", 0), ("test", 0),
        ]  # fmt: skip

    def test_the_digest_is_over_the_shards_in_their_order(self):
        found = self.manifest(self.SHARDS)
        assert found.digest == digest_of_digests(
            content_digest(split, ordinal)
            for split, ordinal in (("train", 0), ("train", 1), ("a", 0), ("test", 0))
        )
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
