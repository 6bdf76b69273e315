import pickle
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest

from storage.data_options import DataOptions
from storage.errors import BadSampleError, DataError
from storage.file_corpus import OpenFile
from storage.file_ingest import open_file_corpus
from storage.files import Folder
from storage.rows import Ragged
from storage.spec import InputSpec
from tests.storage.refusal import refused


@dataclass
class Letters:
    """Decodes a file as its first letters; one that begins with x is damaged."""

    varying: bool = False
    suffixes: tuple[str, ...] = (".txt",)
    identity: int = 1
    loads: int = 0

    @property
    def inputs(self):
        return (InputSpec(name="letters", dtype="uint8", shape=None if self.varying else (3,)),)

    def load(self, file: OpenFile) -> bytes:
        self.loads += 1
        return file.read(0, file.size_bytes)

    def decode(self, content: bytes):
        if content.startswith(b"x"):
            raise BadSampleError("it begins with x")
        values = np.frombuffer(content, np.uint8)
        return (values if self.varying else np.resize(values, 3),)


def options(**changes) -> DataOptions:
    said = {
        "name": "files",
        "source": "all",
        "format": "files",
        "bytes": {"length": 1},
        "splits": {"folder": True},
        "label": "folder",
    }
    return DataOptions.model_validate(said | changes)


TREE = {"train/b/1.txt": "abc", "train/a/2.txt": "de", "test/a/3.txt": "xyz", "test/b/4.txt": "f"}


@pytest.fixture
def folder(tmp_path):
    for name, content in TREE.items():
        path = tmp_path / "all" / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    return tmp_path


@pytest.fixture
def opened(folder):
    def opened(decoder=None, **changes):
        store = Folder.open(folder / "store")
        return open_file_corpus(store, options(**changes), folder, decoder or Letters())

    return opened


def test_splits_classes_and_ids_come_from_folders(opened):
    corpus = opened()
    assert corpus.samples == {"test": 2, "train": 2}
    assert corpus.class_names == ("a", "b")
    rows = corpus.read("train", 0, 2)
    assert rows["sample_id"].tolist() == ["train/a/2.txt", "train/b/1.txt"]
    assert rows["label"].tolist() == [0, 1]
    assert rows["input.letters"].tolist() == [[100, 101, 100], [97, 98, 99]]
    assert rows["bad"].tolist() == ["", ""]
    assert set(rows) == set(corpus.columns("train"))


def test_what_cannot_be_decoded_is_said_and_its_place_is_kept(opened):
    rows = opened().read("test", 0, 2)
    assert rows["bad"].tolist() == ["it begins with x", ""]
    assert rows["input.letters"].tolist() == [[0, 0, 0], [102, 102, 102]]
    varying = opened(Letters(varying=True)).read("test", 0, 2)["input.letters"]
    assert isinstance(varying, Ragged)
    assert varying.lengths_B.tolist() == [1, 1]


def test_without_labels_and_with_names_of_the_recipe(opened, folder):
    assert "label" not in opened(label=None).read("train", 0, 1)
    assert opened(classes=["b", "a"]).read("train", 0, 2)["label"].tolist() == [1, 0]
    with refused(DataError, "data.label", "test/b/4.txt", "'b'", "not among data.classes"):
        opened(classes=["a"])
    (folder / "all/train/loose.txt").write_text("a")
    with refused(DataError, "data.label", "train/loose.txt", "in no folder"):
        opened()


def test_a_source_for_each_split(opened):
    sources = {"train": "all/train", "test": "all/test/**/*.txt"}
    corpus = opened(source=sources, splits={"file": True})
    assert corpus.read("train", 0, 2)["sample_id"].tolist() == ["train/a/2.txt", "train/b/1.txt"]
    assert corpus.read("test", 0, 2)["label"].tolist() == [0, 1]
    with refused(DataError, "'train/a/2.txt' is in the splits 'train' and 'test'"):
        opened(source={"train": "all/train", "test": "all/**"}, splits={"file": True})


def test_a_hash_of_the_name_divides_and_an_empty_split_is_refused(opened):
    corpus = opened(splits={"fractions": {"train": 0.5, "test": 0.5}, "salt": "1"}, label=None)
    assert sum(corpus.samples.values()) == 4
    with refused(DataError, "the split 'never' is empty"):
        opened(splits={"fractions": {"train": 0.9999, "never": 0.0001}}, label=None)


def test_a_folder_that_names_no_split_is_refused(opened, folder):
    (folder / "all/No Split").mkdir()
    (folder / "all/No Split/5.txt").write_text("a")
    with refused(DataError, "data.splits.folder", "No Split/5.txt"):
        opened(label=None)


def test_only_new_and_changed_files_are_read_to_be_digested(opened, folder):
    decoder = Letters()
    before = opened(decoder).index(10)
    assert decoder.loads == 4
    assert opened(decoder).index(10) == before
    assert decoder.loads == 4
    (folder / "all/train/a/9.txt").write_text("new")
    (folder / "all/train/b/1.txt").write_text("changed")
    after = opened(decoder).index(10)
    assert decoder.loads == 6
    assert after.digests["test"] == before.digests["test"]
    assert after.digests["train"] != before.digests["train"]


def test_digests_cover_names_labels_and_content_and_no_place(opened, folder):
    before = opened().index(1)
    assert [shard.rows for shard in before.shards["train"]] == [1, 1]
    (folder / "all").rename(folder / "moved")
    assert opened(source="moved").index(1) == before
    assert opened(source="moved", classes=["b", "a"]).index(1).digests != before.digests
    (folder / "moved/train/a/2.txt").rename(folder / "moved/train/a/7.txt")
    assert opened(source="moved").index(1).digests["train"] != before.digests["train"]


def test_a_file_that_changes_after_it_was_digested_is_refused(opened, folder):
    corpus = opened()
    path = folder / "all/train/a/2.txt"
    path.write_text("DE")
    with refused(DataError, "'train/a/2.txt' changed", "run it again"):
        corpus.read("train", 0, 2)
    path.unlink()
    with refused(DataError, "'train/a/2.txt' changed", "No such file"):
        corpus.read("train", 0, 1)
    assert corpus.read("train", 1, 2)["label"].tolist() == [1]


def test_a_file_that_cannot_be_read_is_a_bad_sample(opened, folder):
    class Unreadable(Letters):
        def load(self, file: OpenFile) -> bytes:
            missing = f"{file.path}.gone" if file.path.endswith("2.txt") else file.path
            return super().load(OpenFile(file.filesystem, missing, file.size_bytes))

    rows = opened(Unreadable()).read("train", 0, 2)
    assert rows["bad"].tolist() == ["the file cannot be read: No such file or directory", ""]


def test_ids_and_labels_are_had_without_reading_a_file(opened):
    decoder = Letters()
    corpus = opened(decoder)
    loads = decoder.loads
    assert list(corpus.read("train", 0, 2, ["label", "sample_id"])) == ["label", "sample_id"]
    assert decoder.loads == loads


def test_a_corpus_travels_to_other_processes(opened):
    corpus = opened()
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy.read("train", 0, 2)["input.letters"].tolist() == [[100, 101, 100], [97, 98, 99]]


def test_files_inside_a_zip(folder, opened):
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for name in TREE:
            archive.write(folder / "all" / name, name)
    here, packed = opened(), opened(source=f"zip://**/*.txt::{folder}/all.zip")
    assert packed.index(10).digests == here.index(10).digests
    copy = pickle.loads(pickle.dumps(packed))
    for corpus in (packed, copy):
        found, expected = corpus.read("train", 0, 2), here.read("train", 0, 2)
        assert found["input.letters"].tolist() == expected["input.letters"].tolist()
