import random
from pathlib import Path

import pytest

from storage import layout, reader
from storage.compaction import write_groups
from storage.errors import MissingProductError
from storage.faults import Fault
from storage.files import Folder
from storage.identity import digest_of_bytes
from storage.options import Codec, Keep, Layout, Task
from storage.reader import LabelSet
from storage.records import Manifest, seal, write_record
from storage.verify import verify
from tests.storage.kinds import spec_of_kind, write_known_set
from tests.storage.refusal import refused
from tests.storage.toy import (
    SET_FINGERPRINT,
    kept,
    token_spec,
    toy_spec,
    views_spec,
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


def write_state(folder: Folder, manifest: Manifest) -> None:
    write_record(folder, f"{layout.MANIFESTS}/{manifest.digest}.json", manifest)
    write_record(folder, layout.MANIFEST, manifest)


class TestLabelSet:
    @pytest.mark.parametrize("keep", Keep)
    @pytest.mark.parametrize("layout", Layout)
    @pytest.mark.parametrize(
        ("codec", "task"),
        [
            (Codec.FLOAT16, Task.CLASSIFICATION),
            (Codec.UINT8, Task.CLASSIFICATION),
            (Codec.FLOAT32, Task.TAGGING),
            (Codec.UINT8, Task.CAUSAL_LM),
        ],
    )
    def test_a_clean_set_of_any_kind_has_no_faults(self, store, keep, codec, layout, task):
        spec = spec_of_kind(keep, codec, layout, task)
        assert list(verify(write_known_set(store, spec).labels.folder)) == []

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

    @pytest.mark.parametrize(
        "kind", [layout.SHARDS, layout.RECORDS, layout.SPEC, layout.MANIFEST, layout.MANIFESTS]
    )
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
        write_state(folder, manifest)
        fault = the_fault(folder)
        assert fault.url.endswith(shard.file)
        assert "a class id of 4, there are 4 classes" in fault.problem

    def test_a_sample_that_is_there_twice_is_named(self, store):
        spec = toy_spec(selections=kept(train=3))
        folder = store / layout.product(layout.LABELS, SET_FINGERPRINT)
        shards = tuple(
            write_toy_shard(folder, spec, "train", ordinal, numbers)
            for ordinal, numbers in enumerate([range(6), range(6, 9), range(5, 7)])
        )
        write_record(folder, layout.SPEC, {})
        write_state(folder, Manifest.of(SET_FINGERPRINT, spec, shards, {}))
        fault = the_fault(folder)
        assert fault.url == folder.url_of(layout.MANIFEST)
        assert "the sample 'train-" in fault.problem
        assert shards[2].file in fault.problem

    def test_views_of_a_sample_are_told_apart(self, store):
        labels = write_toy_set(store, views_spec())
        names = [name for rows in labels.batches("train") for name in rows["sample_id"]]
        assert len(names) == 2 * len(set(names)) == 10
        assert list(verify(labels.folder)) == []

    def test_a_view_that_is_there_twice_is_named(self, store):
        spec = views_spec(selections=kept(train=3))
        folder = store / layout.product(layout.LABELS, SET_FINGERPRINT)
        shards = tuple(
            write_toy_shard(folder, spec, "train", ordinal, numbers)
            for ordinal, numbers in enumerate([range(6), range(5, 9)])
        )
        write_record(folder, layout.SPEC, {})
        write_state(folder, Manifest.of(SET_FINGERPRINT, spec, shards, {}))
        fault = the_fault(folder)
        assert "the sample 'train-2 (view 1)' is there twice" in fault.problem

    def test_a_view_that_there_is_not_is_a_fault(self, store):
        labels = write_toy_set(store, views_spec())
        fewer = labels.manifest.model_copy(
            update={"spec": labels.spec.model_copy(update={"views": 1})}
        )
        write_state(labels.folder, fewer)
        faults = list(verify(labels.folder))
        assert len(faults) == 2
        assert all("a view 1 of 1" in fault.problem for fault in faults)

    def test_the_specification_of_another_set_is_a_fault(self, labels):
        write_record(labels.folder, layout.SPEC, {"fingerprint": "f" * 16})
        fault = the_fault(labels.folder)
        assert fault.url == labels.folder.url_of(layout.SPEC)
        assert "f" * 16 in fault.problem

    def test_a_split_that_the_specification_lacks_is_a_fault(self, store):
        spec = toy_spec(selections=kept(train=3))
        folder = store / layout.product(layout.LABELS, SET_FINGERPRINT)
        shards = (write_toy_shard(folder, spec, "train", 0, range(6)),)
        write_record(folder, layout.SPEC, {})
        manifest = Manifest.of(SET_FINGERPRINT, spec, shards, {})
        lie = spec.model_copy(update={"selections": kept(test=3)})
        write_state(folder, manifest.model_copy(update={"spec": lie}))
        assert "no split 'train'" in the_fault(folder).problem

    def test_what_no_state_names_and_leases_are_no_faults(self, labels):
        write_toy_shard(labels.folder, labels.spec, "train", 7, range(70, 73))
        labels.folder.write_bytes(f"{layout.RECORDS}/train-0000008-00000000.json", b"{")
        labels.folder.write_bytes(f"{layout.SHARDS}/train-0000008-00000000.parquet", b"PAR1")
        labels.folder.write_bytes(layout.lease("train-0000008"), b"half")
        assert list(verify(labels.folder)) == []

    def test_a_group_of_records_under_the_name_of_another_is_a_fault(self, labels):
        groups = labels.folder / layout.COMPACTED
        (name,) = write_groups(labels.folder, labels.manifest.shards)
        assert list(verify(labels.folder)) == []
        other = name.replace("-0000000-", "-0000001-")
        groups.write_bytes(other, groups.read_bytes(name))
        fault = the_fault(labels.folder)
        assert fault.url == groups.url_of(other)
        assert "its name" in fault.problem


class TestEarlierStates:
    @pytest.fixture
    def grown(self, store):
        """A set whose last training shard has grown: an earlier state alone names the short one."""
        first = write_toy_set(store, train=8)
        return first, write_toy_set(store, train=10)

    def only_earlier(self, grown):
        first, newest = grown
        (shard,) = set_of_files(first) - set_of_files(newest)
        return next(entry for entry in first.manifest.shards if entry.file == shard)

    @pytest.mark.parametrize("damage", ["changed", "missing"])
    @pytest.mark.parametrize("kind", [layout.SHARDS, layout.RECORDS])
    def test_their_damage_is_one_fault_that_names_the_state(self, grown, kind, damage):
        first, newest = grown
        shard = self.only_earlier(grown)
        name = f"{kind}/{shard.file if kind == layout.SHARDS else shard.record_file}"
        newest.folder.delete(name)
        if damage == "changed":
            newest.folder.write_bytes(name, b"changed")
        fault = the_fault(newest.folder)
        assert fault.url == newest.folder.url_of(name)
        assert fault.earlier == first.digest
        assert fault.shard == shard
        assert fault.problem.startswith(f"of the earlier state {first.digest[:12]}: ")

    def test_a_shard_of_several_states_is_one_fault_of_the_newest(self, grown):
        first, newest = grown
        shard = newest.shards("train")[0]
        assert shard in first.manifest.shards
        newest.folder.delete(f"{layout.SHARDS}/{shard.file}")
        fault = the_fault(newest.folder)
        assert (fault.shard, fault.earlier) == (shard, None)

    def test_each_file_is_read_once(self, grown, monkeypatch):
        read = []
        check = reader.check_bytes
        monkeypatch.setattr(
            reader, "check_bytes", lambda *given: (read.append(given[1].file), check(*given))[1]
        )
        assert list(verify(grown[1].folder)) == []
        assert sorted(read) == sorted(set_of_files(grown[0]) | set_of_files(grown[1]))

    def test_what_they_say_of_a_shared_file_is_held_against_it(self, grown):
        first, newest = grown
        shards = list(first.manifest.shards)
        shards[0] = shards[0].model_copy(update={"sha256": "0" * 64})
        lie = first.manifest.model_copy(update={"shards": tuple(shards)})
        write_record(newest.folder, f"{layout.MANIFESTS}/{first.digest}.json", lie)
        fault = the_fault(newest.folder)
        assert fault.url == newest.url_of(shards[0])
        assert fault.earlier == first.digest

    def test_a_shard_made_again_with_other_bytes_has_the_record_of_the_newest(self, store):
        first = write_toy_set(store)
        again = write_toy_set(store, toy_spec(temperatures=(4.0, 1.0)))
        assert again.digest != first.digest
        assert {s.record_file for s in again.manifest.shards} == {
            s.record_file for s in first.manifest.shards
        }
        assert list(verify(again.folder)) == []

    def test_the_state_of_another_set_is_a_fault(self, store, grown):
        other = write_toy_set(store, toy_spec(temperatures=(4.0, 1.0)), fingerprint="f" * 16)
        name = f"{layout.MANIFESTS}/{other.digest}.json"
        write_record(grown[1].folder, name, other.manifest)
        fault = the_fault(grown[1].folder)
        assert (fault.url, fault.earlier) == (grown[1].folder.url_of(name), other.digest)
        assert "f" * 16 in fault.problem

    def test_they_are_looked_at_below_a_damaged_manifest(self, grown):
        newest = grown[1]
        shard = newest.shards("test")[0]
        newest.folder.write_bytes(layout.MANIFEST, b"changed")
        newest.folder.delete(f"{layout.SHARDS}/{shard.file}")
        urls = [fault.url for fault in verify(newest.folder)]
        assert urls == [newest.folder.url_of(layout.MANIFEST), newest.url_of(shard)]


def set_of_files(labels: LabelSet) -> set[str]:
    return {shard.file for shard in labels.manifest.shards}


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
