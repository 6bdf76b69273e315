import contextlib
import io
import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.data_options import DataOptions
from storage.errors import DataError
from storage.files import Folder
from storage.ingest import open_corpus
from tasks.inputs.makers import preparation
from tasks.teacher_options import TorchTeacherOptions
from tests.storage.refusal import refused

TORCH = TorchTeacherOptions(kind="torch", target="a:b", weights="x.safetensors")


def corpus_of(folder, **said):
    options = DataOptions.model_validate(
        {"name": "kinds", "splits": {"fractions": {"train": 1.0}}} | said
    )
    made = preparation(Folder.open(folder / "store"), options, folder, TORCH)
    return open_corpus(options, folder, made)


@contextlib.contextmanager
def closing_corpus(folder, **said):
    with contextlib.closing(corpus_of(folder, **said)) as corpus:
        yield corpus


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


IMAGES = {"inputs": "image", "image": {"size": [4, 4], "channels": 1}, "label": "animal"}


@pytest.mark.parametrize("kind", ["bytes", "paths", "records"])
def test_images_of_a_table(tmp_path, kind):
    contents = [png(10), b"no image", png(30)]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.png").write_bytes(content)
    column = {
        "bytes": contents,
        "paths": [f"{number}.png" for number in range(3)],
        "records": [{"bytes": content, "path": None} for content in contents],
    }[kind]
    table = pa.table({"image": column, "animal": ["cat", "dog", "cat"]})
    pq.write_table(table, tmp_path / "animals.parquet")
    with closing_corpus(tmp_path, source="animals.parquet", **IMAGES) as corpus:
        rows = corpus.read("train", 0, 3)
        assert corpus.class_names == ("cat", "dog")
    assert rows["input.image"][:, 0, 0, 0].tolist() == [10, 0, 30]
    assert rows["bad"].tolist() == ["", "that is no image which Pillow knows", ""]
    assert rows["label"].tolist() == [0, 1, 0]


def test_a_path_that_is_not_there_is_a_bad_sample(tmp_path):
    pl.DataFrame({"image": ["nowhere.png"], "animal": [0]}).write_csv(tmp_path / "a.csv")
    with closing_corpus(tmp_path, source="a.csv", **IMAGES) as corpus:
        (reason,) = corpus.read("train", 0, 1)["bad"]
    assert reason == "the file 'nowhere.png' cannot be read: No such file or directory"


def test_numbers_are_no_content(tmp_path):
    pl.DataFrame({"image": [1], "animal": [0]}).write_csv(tmp_path / "a.csv")
    with closing_corpus(tmp_path, source="a.csv", **IMAGES) as corpus:
        (reason,) = corpus.read("train", 0, 1)["bad"]
    assert reason == "there is neither content nor a path"


def test_lists_are_no_content(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": [1, 2], "animal": 0}))
    with refused(DataError, "data.inputs", "'image' must hold a content or a path"):
        corpus_of(tmp_path, source="a.jsonl", **IMAGES)


LINES = [{"text": f"line {number} " * 3, "part": "ab"[number % 2]} for number in range(6)]


@pytest.mark.parametrize(
    "splits", [{"column": "part"}, {"fractions": {"a": 0.5, "b": 0.5}}, {"file": True}]
)
def test_texts_of_a_table_are_packed_within_their_split(tmp_path, splits):
    source = "lines.jsonl"
    (tmp_path / source).write_text("\n".join(map(json.dumps, LINES)))
    if "file" in splits:
        source = {}
        for name in "ab":
            some = [json.dumps(line) for line in LINES if line["part"] == name]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(some))
            source[name] = f"{name}.jsonl"
    packing = {"task": "causal_lm", "tokens": {"tokenizer": "bytes", "block": 16}}
    with closing_corpus(tmp_path, source=source, inputs="text", splits=splits, **packing) as corpus:
        assert sorted(corpus.samples) == ["a", "b"]
        assert corpus.num_labels == 257
        seen = []
        for split, count in corpus.samples.items():
            rows = corpus.read(split, 0, count)
            assert list(rows["input.input_ids"].lengths_B[:-1]) == [16] * (count - 1)
            tokens = rows["input.input_ids"].values_NW
            seen += bytes(np.where(tokens == 256, 10, tokens).tolist()).decode().splitlines()
            ids = [str(name) for name in rows["sample_id"]]
            assert len(set(ids)) == len(ids)
            assert all(name.startswith(f"{split}-") for name in ids) == ("file" in splits)
    assert sorted(seen) == sorted(line["text"] for line in LINES)


def test_text_files_without_a_token_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    packing = {"format": "text", "task": "causal_lm", "tokens": {"tokenizer": "bytes"}}
    with refused(DataError, "data.source", "no samples"):
        corpus_of(tmp_path, source="*.txt", **packing)
