"""What a corpus is does not depend on how its data come in pieces; and samples made of them."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from storage import layout
from storage.corpus import Corpus
from storage.errors import DataError
from storage.ingest import corpus_index, open_corpus
from storage.rows import Ragged
from tests.storage.refusal import refused
from tests.storage.test_ingest import data_options, lists_of, rows_of


class TestChunks:
    @pytest.fixture
    def pieces(self, monkeypatch):
        """A target that gives columns so many rows at a time; None gives all at once."""
        module = type(sys)("pieces_of_columns")

        def load_in_pieces(size: int | None, columns: dict, **changes) -> Corpus:
            count = len(next(iter(columns.values())))
            step = size or count

            def chunks():
                for start in range(0, count, step):
                    yield {name: values[start : start + step] for name, values in columns.items()}

            monkeypatch.setattr(module, "columns", chunks, raising=False)
            monkeypatch.setitem(sys.modules, module.__name__, module)
            options = {"source": "pieces_of_columns:columns", "id": None, "label": None, **changes}
            return open_corpus(data_options(**options), Path())

        return load_in_pieces

    def columns(self, count=2600):
        rng = np.random.default_rng(0)
        lengths = np.where(np.arange(count) < 2000, 3, rng.integers(1, 6, count))
        return {
            "text": [list(range(length)) for length in lengths],
            "x": rng.normal(size=count),
            "y": rng.normal(size=count),
            "name": [("b", "a", "c")[n % 3] for n in range(count)],
            "split": ["test" if n % 7 == 0 else "train" for n in range(count)],
        }

    @pytest.mark.parametrize("size", [1, 100, 999, 1024])
    @pytest.mark.parametrize(
        "changes",
        [{"inputs": ["x", "y"]}, {"inputs": "text"}, {"inputs": "text", "task": "causal_lm"}],
        ids=["numbers", "texts", "blocks"],
    )
    def test_the_index_is_the_same(self, pieces, size, changes):
        label = {} if "task" in changes else {"label": "name"}
        columns = self.columns(600 if size == 1 else 2600)
        whole = pieces(None, columns, **changes, **label)
        assert pieces(size, columns, **changes, **label).index(500) == whole.index(500)

    def test_lists_that_turn_out_to_vary_late_vary_from_the_beginning(self, pieces):
        corpus = pieces(100, self.columns(), inputs="text")
        assert corpus.form.inputs[0].shape is None
        rows = corpus.read("train", 5, 7)
        assert lists_of(rows["input.text"]) == [[0, 1, 2], [0, 1, 2]]

    def test_lists_of_several_inputs_are_compared_over_all_chunks(self, pieces):
        columns = {"a": [[1], [2], [1, 2]], "b": [[1], [2], [3]], "split": ["train"] * 3}
        corpus = pieces(1, columns, inputs=["a", "b"])
        assert [entry.shape for entry in corpus.form.inputs] == [None, (1,)]
        columns["b"][0] = [1, 2, 3]
        with refused(DataError, "'b'", "not as long"):
            pieces(1, columns, inputs=["a", "b"])

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ([[[1, 2]], [[1, 2], [3, 4]]], ("'x'", "(1, 2)", "(2, 2)", "one for all")),
            ([[1], [0.5]], ("'x'", "int64", "float32", "one type")),
        ],
    )
    def test_chunks_of_other_forms_are_refused(self, pieces, values, words):
        with refused(DataError, *words):
            pieces(1, {"x": values, "split": ["train", "train"]}, inputs="x")

    def test_names_and_numbers_are_no_labels_together(self, pieces):
        columns = {"x": [[1], [2]], "name": ["a", 1], "split": ["train", "train"]}
        with refused(DataError, "data.label", "numbers and text"):
            pieces(1, columns, inputs="x", label="name")

    def test_an_id_in_two_chunks_is_refused(self, pieces):
        columns = {"id": ["a", "b", "c", "a"], "x": [1, 2, 3, 4], "split": ["train"] * 3 + ["test"]}
        with refused(DataError, "1 ids", "'a'", "over all splits"):
            pieces(1, columns, inputs=["x"], id="id")

    def test_what_is_refused_leaves_nothing_behind(self, pieces, tmp_path, monkeypatch):
        monkeypatch.setenv("SOFTLABEL_SCRATCH", str(tmp_path / "scratch"))
        with refused(DataError, "NaN"):
            pieces(1, {"x": [1.0, np.nan], "split": ["train", "train"]}, inputs=["x"])
        assert list((tmp_path / "scratch").iterdir()) == []


class Doubled:
    """Each text of letters as numbers, twice; those with a "?" could not be read."""

    inputs = ("tokens",)
    num_classes: int | None = None

    def identity(self):
        return {"kind": "doubled"}

    def __call__(self, chunks):
        for chunk in chunks:
            texts = np.repeat(chunk["text"], 2)
            lengths = np.array([len(text) for text in texts])
            yield {
                "tokens": Ragged(
                    np.array([ord(letter) - 97 for t in texts for letter in t]), lengths
                ),
                "bad": np.array(["no text" if "?" in t else "" for t in texts], object),
                "sample_id": np.array([f"{t}-{n % 2}" for n, t in enumerate(texts)], object),
                "split": np.repeat(chunk["split"], 2),
            }


class TestPreparation:
    def corpus(self, tmp_path, task="causal_lm", texts=("abc", "b?", "cd")):
        data = pl.DataFrame({"text": texts, "split": ["train"] * len(texts)})
        data.write_parquet(tmp_path / "texts.parquet")
        options = data_options(
            source="texts.parquet", inputs="text", id=None, label=None, task=task, classes=5
        )
        return open_corpus(options, tmp_path, Doubled())

    def test_its_samples_are_those_of_the_corpus(self, tmp_path):
        rows = rows_of(self.corpus(tmp_path))
        assert rows["sample_id"].tolist() == ["abc-0", "abc-1", "b?-0", "b?-1", "cd-0", "cd-1"]
        assert lists_of(rows["input.tokens"])[1] == [0, 1, 2]
        assert rows["bad"].tolist() == ["", "", "no text", "no text", "", ""]

    def test_what_is_bad_is_not_looked_at(self, tmp_path):
        # The letter "?" is a number far below 0.
        rows = rows_of(self.corpus(tmp_path))
        assert lists_of(rows["input.tokens"])[2] == [1, -34]
        with refused(DataError, "holds 5", "0 to 4"):
            self.corpus(tmp_path, texts=("abf", "b?"))

    def test_that_something_is_bad_is_part_of_the_digest(self, tmp_path):
        (shard,) = self.corpus(tmp_path).shards(100)["train"]
        (other,) = self.corpus(tmp_path, texts=("abc", "b", "cd")).shards(100)["train"]
        assert shard.digest != other.digest

    def test_it_is_part_of_the_indexs_name(self, tmp_path, store):
        self.corpus(tmp_path)
        options = data_options(
            source="texts.parquet", inputs="text", id=None, label=None, task="causal_lm"
        )
        indexes = [
            corpus_index(store, options, tmp_path, 4, lambda: self.corpus(tmp_path), prepared)
            for prepared in (Doubled(), None)
        ]
        assert len(list(Path(store.path, layout.CORPORA).iterdir())) == 2
        assert indexes[0] == indexes[1]
