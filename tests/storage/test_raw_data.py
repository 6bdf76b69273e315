import numpy as np
import pytest

from storage.data_options import DataOptions
from storage.errors import DataError
from storage.ingest import open_corpus
from storage.raw_data import data_stamps, raw_chunks
from tests.storage.refusal import refused
from tests.storage.test_idx import write_pair


def options(**changes) -> DataOptions:
    said = {"name": "raw", "splits": {"file": True}, "source": "idx"}
    return DataOptions.model_validate(said | changes)


IDX = {"format": "idx", "label": "label"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "idx").mkdir()
    write_pair(tmp_path / "idx", "train", 5)
    write_pair(tmp_path / "idx", "t10k", 3)
    return tmp_path


def test_pairs_of_a_folder_are_splits(folder):
    corpus = open_corpus(options(**IDX), folder)
    assert corpus.samples == {"test": 3, "train": 5} or corpus.samples == {"train": 5, "test": 3}
    rows = corpus.read("test", 0, 3)
    assert rows["input.image"].shape == (3, 1, 4, 5)
    assert rows["input.image"].dtype == np.uint8
    assert rows["label"].tolist() == [0, 1, 2]
    assert rows["sample_id"].tolist() == [f"test-00000000{place}" for place in range(3)]


def test_pairs_can_be_named(folder):
    names = [f"idx/train-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    one = open_corpus(options(**IDX, source=names, splits={"fractions": {"train": 1.0}}), folder)
    assert one.samples == {"train": 5}
    each = open_corpus(options(**IDX, source={"train": names}), folder)
    assert each.samples == {"train": 5}
    alone = options(format="idx", source={"train": names[0]})
    assert "label" not in open_corpus(alone, folder).read("train", 0, 1)
    with refused(DataError, "data.label", "'train' names no file of labels"):
        open_corpus(options(**IDX, source={"train": names[0]}), folder)


def test_a_folder_of_several_splits_is_not_divided_again(folder):
    with refused(DataError, "holds the splits", "file: true"):
        open_corpus(options(**IDX, splits={"fractions": {"train": 1.0}}), folder)


TEXT = {"format": "text", "task": "causal_lm", "tokens": {"tokenizer": "bytes"}}


def test_text_files_come_in_chunks_sorted_by_name(tmp_path):
    for number in range(300):
        (tmp_path / f"{number:03d}.txt").write_text(str(number))
    said = options(**TEXT, source="*.txt", splits={"fractions": {"train": 1.0}})
    chunks = list(raw_chunks(said, tmp_path)["train"])
    assert [len(chunk["text"]) for chunk in chunks] == [256, 44]
    assert chunks[0]["sample_id"].tolist()[:2] == ["000.txt", "001.txt"]
    assert chunks[1]["text"].tolist()[-1] == b"299"


def test_a_text_file_that_went_meanwhile_is_a_reason(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    said = options(**TEXT, source=".", splits={"fractions": {"train": 1.0}})
    chunks = raw_chunks(said, tmp_path)["train"]
    (tmp_path / "a.txt").unlink()
    (chunk,) = chunks
    assert "cannot be read: No such file" in str(chunk["text"][0])
    assert chunk["text"][1] == b"b.txt"


def test_stamps_change_with_the_data(folder):
    before = data_stamps(options(**IDX), folder)
    assert set(before) == {"train", "test"}
    assert data_stamps(options(**IDX), folder) == before
    write_pair(folder / "idx", "t10k", 4)
    after = data_stamps(options(**IDX), folder)
    assert after["train"] == before["train"]
    assert after["test"] != before["test"]
