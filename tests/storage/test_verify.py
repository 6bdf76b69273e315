import random
from pathlib import Path

import pytest

from storage import layout
from storage.errors import MissingProductError
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.reader import LabelSet
from storage.records import Manifest, seal, write_record
from storage.verify import Fault, verify
from tests.storage.refusal import refused
from tests.storage.toy import (
    SET_FINGERPRINT,
    kept,
    token_spec,
    toy_spec,
    write_toy_set,
    write_toy_shard,
)


def files_of(labels: LabelSet) -> list[Path]:
    return sorted(path for path in Path(labels.folder.path).rglob("*") if path.is_file())


def the_fault(folder: Folder) -> Fault:
    (fault,) = verify(folder)
    assert "\n" not in str(fault)
    assert str(fault).startswith(fault.url)
    return fault


def write_card(folder: Folder, **contents: bytes) -> None:
    for name, content in contents.items():
        folder.write_bytes(name, content)
    files = {name: digest_of_bytes(content) for name, content in contents.items()}
    write_record(folder, layout.CARD, {"files": files})


class TestLabelSet:
    @pytest.mark.parametrize("spec", [toy_spec(), token_spec(statistics=True)])
    def test_a_clean_set_has_no_faults(self, store, spec):
        assert list(verify(write_toy_set(store, spec).folder)) == []

    def test_a_clean_set_on_an_object_store_has_no_faults(self):
        assert list(verify(write_toy_set(Folder.open("memory://verify")).folder)) == []

    def test_earlier_states_are_no_faults(self, store):
        write_toy_set(store, train=8)
        assert list(verify(write_toy_set(store, train=10).folder)) == []

    def test_any_changed_byte_is_one_fault_that_names_the_file(self, labels):
        draw = random.Random(0)
        paths = files_of(labels)
        for _ in range(200):
            path = draw.choice(paths)
            content = path.read_bytes()
            damaged = bytearray(content)
            damaged[draw.randrange(len(content))] ^= draw.randrange(1, 256)
            path.write_bytes(damaged)
            assert the_fault(labels.folder).url == str(path)
            path.write_bytes(content)
        assert list(verify(labels.folder)) == []

    def test_every_file_truncated_is_one_fault(self, labels):
        for path in files_of(labels):
            content = path.read_bytes()
            for length in (0, len(content) // 2, len(content) - 1):
                path.write_bytes(content[:length])
                assert the_fault(labels.folder).url == str(path)
            path.write_bytes(content)

    @pytest.mark.parametrize("kind", [layout.SHARDS, layout.RECORDS, layout.SPEC, layout.MANIFEST])
    def test_a_deleted_file_is_one_fault(self, labels, kind):
        path = next(path for path in files_of(labels) if kind in (path.name, path.parent.name))
        path.unlink()
        assert the_fault(labels.folder).url == str(path)

    @pytest.mark.parametrize("kind", [layout.SHARDS, layout.RECORDS])
    def test_a_fault_names_the_shard_it_concerns(self, labels, kind):
        path = next(path for path in files_of(labels) if kind == path.parent.name)
        path.write_bytes(b"")
        shard = the_fault(labels.folder).shard
        assert shard is not None
        assert path.name.startswith(f"{shard.split}-{shard.ordinal:07d}-")

    @pytest.mark.parametrize("kind", [layout.SHARDS, layout.RECORDS])
    def test_two_swapped_files_are_two_faults(self, labels, kind):
        first, second = [path for path in files_of(labels) if kind == path.parent.name][:2]
        contents = first.read_bytes(), second.read_bytes()
        second.write_bytes(contents[0])
        first.write_bytes(contents[1])
        assert {fault.url for fault in verify(labels.folder)} == {str(first), str(second)}

    def test_the_manifest_of_another_set_is_a_fault(self, store, labels):
        other = write_toy_set(store, fingerprint="f" * 16)
        content = other.folder.read_bytes(layout.MANIFEST)
        labels.folder.write_bytes(layout.MANIFEST, content)
        fault = the_fault(labels.folder)
        assert fault.url == labels.folder.url_of(layout.MANIFEST)
        assert "f" * 16 in fault.problem

    def test_a_manifest_whose_digest_is_another_is_a_fault(self, labels):
        lie = labels.manifest.model_copy(update={"digest": "0" * 64})
        write_record(labels.folder, layout.MANIFEST, lie)
        fault = the_fault(labels.folder)
        assert fault.url == labels.folder.url_of(layout.MANIFEST)
        assert "0" * 12 in fault.problem

    def test_a_record_that_says_something_else_is_a_fault(self, labels):
        shard = labels.shards("train")[0]
        name = layout.record_file(shard.split, shard.ordinal, shard.fingerprint)
        lie = shard.model_copy(update={"rows": 7})
        write_record(labels.folder / layout.RECORDS, name, lie)
        assert the_fault(labels.folder).url.endswith(name)

    def test_a_state_under_the_name_of_another_is_a_fault(self, labels):
        name = f"{layout.MANIFESTS}/{'0' * 64}.json"
        write_record(labels.folder, name, labels.manifest)
        assert the_fault(labels.folder).url == labels.folder.url_of(name)

    def test_numbers_that_no_soft_label_holds_are_a_fault(self, store):
        spec = toy_spec(selections=kept(train=3))
        folder = store / layout.product(layout.LABELS, SET_FINGERPRINT)
        shard = write_toy_shard(folder, spec, "train", 0, range(6))
        manifest = Manifest.of(
            SET_FINGERPRINT, spec.model_copy(update={"num_classes": 4}), (shard,), {}
        )
        write_record(folder, layout.SPEC, {})
        write_record(folder, layout.MANIFEST, manifest)
        fault = the_fault(folder)
        assert fault.url.endswith(shard.file)
        assert "a class id of 4, there are 4 classes" in fault.problem


class TestCard:
    def test_a_clean_product_has_no_faults(self, store):
        write_card(store, weights=b"1", history=b"2")
        assert list(verify(store)) == []

    def test_a_changed_file_is_a_fault(self, store):
        write_card(store, weights=b"1", history=b"2")
        store.write_bytes("weights", b"3")
        fault = the_fault(store)
        assert fault.url == store.url_of("weights")
        assert "expected sha256" in fault.problem

    def test_a_missing_file_is_a_fault(self, store):
        write_card(store, weights=b"1", history=b"2")
        store.delete("history")
        assert the_fault(store).url == store.url_of("history")

    def test_a_damaged_card_is_a_fault(self, store):
        write_card(store, weights=b"1")
        content = store.read_bytes(layout.CARD)
        store.write_bytes(layout.CARD, content.replace(b"weights", b"weighty"))
        assert the_fault(store).url == store.url_of(layout.CARD)

    def test_a_card_that_names_a_file_elsewhere_is_a_fault(self, store):
        store.write_bytes(layout.CARD, seal({"files": {"../secret": "0" * 64}}))
        assert "../secret" in the_fault(store).problem


class TestStore:
    @pytest.fixture
    def full(self, store, labels):
        for kind in (layout.TEACHERS, layout.STUDENTS, layout.REPORTS, layout.PREDICTIONS):
            write_card(store / layout.product(kind, "a" * 16), content=kind.encode())
        return store

    def test_a_clean_store_has_no_faults(self, full):
        assert list(verify(full)) == []

    def test_every_product_is_looked_at(self, full, labels):
        damaged = [
            f"{layout.product(kind, 'a' * 16)}/content"
            for kind in (layout.TEACHERS, layout.STUDENTS, layout.REPORTS, layout.PREDICTIONS)
        ]
        for name in damaged:
            full.write_bytes(name, b"changed")
        shard = Path(labels.url_of(labels.shards("test")[0]))
        shard.write_bytes(b"changed")
        urls = {fault.url for fault in verify(full)}
        assert urls == {str(shard), *(full.url_of(name) for name in damaged)}

    def test_what_is_not_finished_is_no_fault(self, full):
        full.write_bytes(f"{layout.STUDENTS}/{'b' * 16}/checkpoints/1.pt", b"half")
        write_toy_shard(full / layout.LABELS / ("b" * 16), toy_spec(), "train", 0, range(3))
        assert list(verify(full)) == []

    def test_nothing_there_says_what_was_expected(self, tmp_path):
        with refused(MissingProductError, str(tmp_path), "label set, model, report or store"):
            list(verify(Folder.open(tmp_path)))
        with refused(MissingProductError, str(tmp_path / "none")):
            list(verify(Folder.open(tmp_path / "none")))
