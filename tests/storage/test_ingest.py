import sys
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import layout
from storage.corpus import Corpus
from storage.errors import DataError, RecipeError, StoreError
from storage.files import Folder
from storage.ingest import corpus_index, open_corpus
from storage.options import DataOptions, Task
from storage.rows import Column, Ragged
from storage.schema import NO_LABEL
from storage.spec import CorpusForm, InputSpec
from storage.token_labels import next_token_labels
from tests.storage.refusal import refused

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
TOKENS = [[5, 6, 7], [8], [9, 1, 2, 3]]


def frame(count: int = 12, start: int = 0) -> pl.DataFrame:
    """Sample n has the id "s<n>", the inputs n and -n, and class n % 3; every fourth is a test."""
    numbers = range(start, start + count)
    return pl.DataFrame(
        {
            "id": [f"s{n}" for n in numbers],
            "x": [float(n) for n in numbers],
            "y": [-float(n) for n in numbers],
            "label": [n % 3 for n in numbers],
            "name": [("cat", "dog", "fox")[n % 3] for n in numbers],
            "vector": [[n, n + 1, n + 2, n + 3] for n in numbers],
            "split": ["test" if n % 4 == 3 else "train" for n in numbers],
        }
    )


def data_options(**changes) -> DataOptions:
    options = {
        "name": "toy",
        "source": "data.parquet",
        "inputs": ["x", "y"],
        "id": "id",
        "label": "label",
        "splits": {"column": "split"},
    }
    return DataOptions.model_validate(options | changes)


@pytest.fixture
def load(tmp_path):
    """Load a corpus from a frame beside the recipe."""

    def load_frame(data: pl.DataFrame, **changes) -> Corpus:
        data.write_parquet(tmp_path / "data.parquet")
        return open_corpus(data_options(**changes), tmp_path)

    return load_frame


@pytest.fixture
def load_tokens(load):
    """Load blocks of tokens, all of them for training."""

    def load_blocks(task: str, **columns) -> dict:
        changes = {name: name for name in ("label", "mask") if name in columns}
        data = {"tokens": TOKENS, "split": ["train"] * len(TOKENS)} | columns
        inputs = ["tokens", *(["more"] if "more" in columns else [])]
        options = {"task": task, "inputs": inputs, "id": None, "label": None} | changes
        classes = {"classes": columns.pop("classes")} if "classes" in columns else {}
        data.pop("classes", None)
        return rows_of(load(pl.DataFrame(data), **options, **classes))

    return load_blocks


def rows_of(corpus: Corpus, split: str = "train") -> dict[str, Column]:
    """All samples of a split."""
    return corpus.read(split, 0, corpus.samples[split])


def ids_of(corpus: Corpus) -> dict[str, list[str]]:
    return {name: list(rows_of(corpus, name)["sample_id"]) for name in corpus.samples}


def lists_of(column: Ragged) -> list[list]:
    ends = np.cumsum(column.lengths_B)[:-1]
    return [part.tolist() for part in np.split(column.values_NW, ends)]


class TestInputs:
    def test_plain_numbers_become_one_vector(self, load):
        rows = rows_of(load(frame()))
        assert rows["input.features"].dtype == np.float32
        assert rows["input.features"][:3].tolist() == [[0, 0], [1, -1], [2, -2]]

    def test_a_list_stays_an_input_of_its_own(self, load):
        corpus = load(frame(), inputs="vector")
        assert corpus.form.inputs == (InputSpec(name="vector", dtype="int64", shape=(4,)),)
        assert rows_of(corpus)["input.vector"][0].tolist() == [0, 1, 2, 3]

    def test_a_shape_may_be_given_to_a_flat_list(self, load):
        corpus = load(frame(), inputs="vector", shapes={"vector": [2, 2]})
        assert corpus.form.inputs[0].shape == (2, 2)
        assert rows_of(corpus)["input.vector"][0].tolist() == [[0, 1], [2, 3]]

    def test_a_shape_that_does_not_fit_is_refused(self, load):
        with refused(DataError, "data.shapes", "'vector'", "(4,)", "(3,)"):
            load(frame(), inputs="vector", shapes={"vector": [3]})

    def test_several_inputs_keep_their_names(self, load):
        form = load(frame(), inputs=["x", "vector"]).form
        assert [(entry.name, entry.shape) for entry in form.inputs] == [("x", ()), ("vector", (4,))]

    def test_large_floats_become_float32(self, load):
        data = frame().with_columns(wide=pl.Series([[0.1, 0.2]] * 12))
        assert load(data, inputs="wide").form.inputs[0].dtype == "float32"

    def test_text_is_refused(self, load):
        with refused(DataError, "data.inputs", "'name'", "expected numbers", "package.module:name"):
            load(frame(), inputs="name")

    def uneven(self) -> pl.DataFrame:
        return frame(3).with_columns(
            uneven=pl.Series([[1], [1, 2], [1, 2, 3]]),
            scores=pl.Series([[0.5], [1.5, 2.5], [0.0, 1.0, 2.0]]),
        )

    def test_lists_of_varying_length_stay_lists(self, load):
        corpus = load(self.uneven(), inputs=["uneven", "scores"])
        rows = rows_of(corpus)
        assert lists_of(rows["input.uneven"]) == [[1], [1, 2], [1, 2, 3]]
        assert rows["input.scores"].values_NW.dtype == np.float32
        assert [entry.shape for entry in corpus.form.inputs] == [None, None]
        assert rows["label"].tolist() == [0, 1, 2]
        assert [shard.positions for shard in corpus.index(2).shards["train"]] == [2, 1]

    def test_padding_can_be_told_by_an_input_of_ones(self, load):
        corpus = load(self.uneven(), inputs="uneven", attention_mask=True)
        assert [(entry.name, entry.dtype, entry.shape) for entry in corpus.form.inputs] == [
            ("uneven", "int64", None), ("attention_mask", "int64", None),
        ]  # fmt: skip
        rows = rows_of(corpus)
        assert lists_of(rows["input.attention_mask"]) == [[1], [1, 1], [1, 1, 1]]

    def test_where_padding_is_told_lists_of_one_length_vary_too(self, load):
        corpus = load(frame(), inputs="vector", attention_mask=True)
        assert [entry.shape for entry in corpus.form.inputs] == [None, None]

    def test_without_lists_there_is_no_padding_to_tell(self, load):
        with refused(DataError, "data.attention_mask", "leave it out"):
            load(frame(), inputs=["x", "y"], attention_mask=True)

    def test_lists_of_varying_length_cannot_have_one_shape(self, load):
        with refused(DataError, "data.shapes", "'uneven'", "1 to 3 values", "(2,)"):
            load(self.uneven(), inputs="uneven", shapes={"uneven": [2]})

    def test_lists_of_several_inputs_have_the_same_lengths(self, load):
        data = self.uneven().with_columns(other=pl.Series([[1], [1], [1, 2]]))
        with refused(DataError, "'other'", "not as long"):
            load(data, inputs=["uneven", "other"])

    def test_texts_without_tokens_name_the_samples(self, load):
        data = frame(3).with_columns(text=pl.Series([[1], [], [1, 2]]))
        with refused(DataError, "1 samples have no tokens", "s1;"):
            load(data, inputs="text")

    def test_what_varies_in_one_split_varies_in_all(self, load):
        lists = [[1, 2], [3, 4], [5], [6, 7]]
        data = frame(4).with_columns(text=pl.Series(lists))
        corpus = load(data, inputs="text")
        assert corpus.form.inputs[0].shape is None
        assert lists_of(rows_of(corpus, "test")["input.text"]) == [[6, 7]]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
    def test_numbers_that_are_not_finite_name_the_samples(self, load, bad):
        values = [float(n) for n in range(12)]
        values[2] = values[5] = bad
        with refused(DataError, "data.inputs", "'x'", "2 samples: s2, s5;"):
            load(frame().with_columns(x=pl.Series(values)))

    def test_many_bad_samples_are_counted_and_a_few_named(self, load):
        with refused(DataError, "12 samples: s0, s1, s2, ..."):
            load(frame().with_columns(x=pl.lit(np.nan)))

    def test_not_finite_within_a_list_names_the_sample(self, load):
        data = frame(3).with_columns(wide=pl.Series([[0.1, 0.2], [0.3, np.nan], [0.5, 0.6]]))
        with refused(DataError, "'wide'", "1 samples: s1;"):
            load(data, inputs="wide")

    def test_a_missing_column_lists_those_there(self, load):
        with refused(DataError, "no column 'z'", "id, x, y, label"):
            load(frame(), inputs="z")


class TestLabels:
    def test_class_ids_are_kept(self, load):
        corpus = load(frame())
        assert corpus.form.has_label
        assert rows_of(corpus)["label"][:4].tolist() == [0, 1, 2, 1]
        assert rows_of(corpus)["label"].dtype == np.int64

    def test_there_may_be_none(self, load):
        corpus = load(frame(), label=None)
        assert not corpus.form.has_label
        assert "label" not in rows_of(corpus)

    def test_names_become_their_place_among_the_classes(self, load):
        rows = rows_of(load(frame(), label="name", classes=["fox", "cat", "dog"]))
        assert rows["label"][:3].tolist() == [1, 2, 0]

    def test_names_that_the_recipe_does_not_say_are_taken_in_alphabetical_order(self, load):
        data = frame().reverse()
        corpus = load(data, label="name")
        assert corpus.class_names == ("cat", "dog", "fox")
        assert corpus.num_labels == 3
        rows = rows_of(corpus)
        assert rows["sample_id"][:3].tolist() == ["s10", "s9", "s8"]
        assert rows["label"][:3].tolist() == [1, 0, 2]
        assert corpus.index(4).class_names == corpus.class_names
        assert load(data, label="name", classes=3).class_names == corpus.class_names

    def test_the_recipes_names_are_not_said_to_be_found(self, load):
        assert load(frame(), label="name", classes=["fox", "cat", "dog"]).class_names is None
        assert load(frame()).class_names is None

    def test_names_that_are_not_as_many_as_said_are_refused(self, load):
        with refused(DataError, "data.classes", "'name'", "is 3, got 4"):
            load(frame(), label="name", classes=4)

    def test_a_name_that_is_no_class_is_refused(self, load):
        with refused(DataError, "data.label", "'fox'", "not among data.classes"):
            load(frame(), label="name", classes=["cat", "dog"])

    def test_a_label_outside_the_classes_is_refused(self, load):
        with refused(DataError, "data.label", "'label' holds 2", "expected 0 to 1"):
            load(frame(), classes=2)

    def test_a_label_below_zero_is_refused(self, load):
        with refused(DataError, "data.label", "'label' holds -1", "expected 0 or more"):
            load(frame().with_columns(label=pl.col("label") - 1))

    @pytest.mark.parametrize("bad", [0.5, np.nan, np.inf])
    def test_labels_that_are_not_whole_are_refused(self, load, bad):
        labels = pl.Series([1.0] * 11 + [bad])
        with refused(DataError, "data.label", f"'label' holds {bad}", "whole class ids"):
            load(frame().with_columns(label=labels))

    def test_whole_numbers_may_be_written_as_fractions(self, load):
        rows = rows_of(load(frame().with_columns(pl.col("label").cast(pl.Float64))))
        assert rows["label"][:3].tolist() == [0, 1, 2]

    def test_several_labels_a_sample_are_refused(self, load):
        with refused(DataError, "data.label", "'vector'", "one class a sample"):
            load(frame(), label="vector")


class TestIds:
    def test_without_a_column_the_row_is_the_id(self, load):
        ids = ids_of(load(frame(5), id=None))
        assert ids["train"] == ["000000000", "000000001", "000000002", "000000004"]

    def test_numbers_become_text(self, load):
        assert ids_of(load(frame(3), id="label"))["train"] == ["0", "1", "2"]

    def test_ids_that_are_there_twice_are_refused(self, load):
        with refused(DataError, "data.id", "3 ids", "'0'", "unique"):
            load(frame(), id="label")

    def test_ids_in_lists_are_refused(self, load):
        with refused(DataError, "data.id", "'vector'", "one id a sample"):
            load(frame(), id="vector")

    def test_missing_ids_are_refused(self, load):
        with refused(DataError, "'id'", "1 missing values"):
            load(frame(3).with_columns(id=pl.Series(["a", None, "b"])))


class TestColumnSplits:
    def test_each_name_is_a_split(self, load):
        assert ids_of(load(frame(8))) == {
            "train": ["s0", "s1", "s2", "s4", "s5", "s6"],
            "test": ["s3", "s7"],
        }

    @pytest.mark.parametrize("name", ["Train Set", "../up", "a/b", "", "x" * 41])
    def test_a_name_that_can_be_no_file_name_is_refused(self, load, name):
        data = frame(4).with_columns(split=pl.Series(["train", "train", "train", name]))
        with refused(DataError, "data.splits.column", "'split'", repr(name[:40])):
            load(data)


class TestHashSplits:
    def ids(self, load, data, fractions=SHARES, **more):
        return ids_of(load(data, splits={"fractions": fractions, **more}))

    def test_the_shares_are_about_right(self, load):
        ids = self.ids(load, frame(5000))
        for name, share in SHARES.items():
            assert abs(len(ids[name]) / 5000 - share) < 0.02

    def test_no_sample_is_lost(self, load):
        ids = self.ids(load, frame(500))
        assert sorted(chain.from_iterable(ids.values())) == sorted(f"s{n}" for n in range(500))

    def test_appending_moves_no_sample(self, load):
        before, after = self.ids(load, frame(200)), self.ids(load, frame(300))
        for name, ids in before.items():
            assert after[name][: len(ids)] == ids

    def test_shuffling_moves_no_sample(self, load):
        before = self.ids(load, frame(200))
        after = self.ids(load, frame(200).sample(fraction=1, shuffle=True, seed=1))
        assert {name: sorted(ids) for name, ids in before.items()} == {
            name: sorted(ids) for name, ids in after.items()
        }
        assert before != after

    def test_the_order_in_which_shares_are_said_does_not_matter(self, load):
        backwards = dict(reversed(SHARES.items()))
        assert self.ids(load, frame(200)) == self.ids(load, frame(200), backwards)

    def test_another_salt_divides_anew(self, load):
        assert self.ids(load, frame(200)) != self.ids(load, frame(200), salt="other")

    def test_an_empty_split_is_refused(self, load):
        with refused(DataError, "'test' is empty", "data.splits"):
            self.ids(load, frame(5), {"train": 0.999, "test": 0.001})


class TestFileSplits:
    @pytest.fixture
    def load_files(self, tmp_path):
        def load_frames(train: pl.DataFrame, test: pl.DataFrame, **changes) -> Corpus:
            for name, data in (("train", train), ("test", test)):
                data.write_parquet(tmp_path / f"{name}.parquet")
            source = {"train": "train.parquet", "test": "test.parquet"}
            splits = {"file": True}
            return open_corpus(data_options(source=source, splits=splits, **changes), tmp_path)

        return load_frames

    def test_each_file_is_a_split(self, load_files):
        corpus = load_files(frame(3), frame(2, start=3))
        assert ids_of(corpus) == {"train": ["s0", "s1", "s2"], "test": ["s3", "s4"]}

    def test_without_ids_the_split_is_part_of_them(self, load_files):
        corpus = load_files(frame(2), frame(1), id=None)
        expected = {"train": ["train-000000000", "train-000000001"], "test": ["test-000000000"]}
        assert ids_of(corpus) == expected

    def test_an_id_in_two_files_is_refused(self, load_files):
        with refused(DataError, "data.id", "2 ids", "'s1'", "over all splits"):
            load_files(frame(3), frame(3, start=1))

    def test_an_empty_file_is_refused(self, load_files):
        with refused(DataError, "test.parquet", "no rows"):
            load_files(frame(3), frame(0))

    def test_an_empty_file_of_lists_is_refused(self, load_files):
        with refused(DataError, "test.parquet", "no rows"):
            load_files(frame(3), frame(3).clear(), inputs="vector")

    def test_inputs_of_another_shape_are_refused(self, load_files):
        other = frame(3, start=3).with_columns(vector=pl.Series([[1, 2]] * 3))
        with refused(DataError, "'test'", "vector int64 (2,)", "'train'", "vector int64 (4,)"):
            load_files(frame(3), other, inputs="vector")

    def test_inputs_of_another_type_are_refused(self, load_files):
        other = frame(3, start=3).with_columns(vector=pl.Series([[0.5] * 4] * 3))
        with refused(DataError, "'test'", "vector float32", "'train'", "vector int64"):
            load_files(frame(3), other, inputs="vector")

    def test_a_pattern_may_stand_for_each_split(self, tmp_path):
        for start in range(3):
            frame(1, start).write_parquet(tmp_path / f"train-{start}.parquet")
        frame(1, 3).write_parquet(tmp_path / "test.parquet")
        source = {"train": "train-*.parquet", "test": ["test.parquet"]}
        corpus = open_corpus(data_options(source=source, splits={"file": True}), tmp_path)
        assert ids_of(corpus) == {"train": ["s0", "s1", "s2"], "test": ["s3"]}

    def test_rows_are_numbered_through_all_files(self, tmp_path):
        for name in ("a", "b"):
            frame(3).write_parquet(tmp_path / f"{name}.parquet")
        corpus = open_corpus(data_options(source="*.parquet", id=None), tmp_path)
        assert ids_of(corpus)["train"] == [f"{row:09d}" for row in range(6)]

    def test_what_varies_in_one_split_varies_in_the_other(self, load_files):
        lists = frame(3, start=3).with_columns(vector=pl.Series([[1], [1, 2], [3]]))
        corpus = load_files(frame(3), lists, inputs="vector")
        assert corpus.form.inputs[0].shape is None
        assert lists_of(rows_of(corpus)["input.vector"])[0] == [0, 1, 2, 3]


class TestTokenBlocks:
    def test_tagging_keeps_a_label_for_each_token(self, load_tokens):
        rows = load_tokens("tagging", label=[[0, 1, 0], [1], [0, 0, 1, 1]])
        assert lists_of(rows["input.tokens"]) == TOKENS
        assert lists_of(rows["label"]) == [[0, 1, 0], [1], [0, 0, 1, 1]]
        assert lists_of(rows["mask"]) == [[True] * 3, [True], [True] * 4]

    def test_what_the_mask_leaves_out_has_no_label(self, load_tokens):
        rows = load_tokens(
            "tagging", label=[[0, 1, 0], [1], [0, 0, 1, 1]], mask=[[1, 0, 1], [0], [1, 1, 0, 1]]
        )
        assert lists_of(rows["label"]) == [[0, NO_LABEL, 0], [NO_LABEL], [0, 0, NO_LABEL, 1]]
        assert lists_of(rows["mask"])[0] == [True, False, True]

    def test_tagging_may_have_no_labels(self, load_tokens):
        assert set(load_tokens("tagging")) == {"sample_id", "input.tokens", "mask"}

    def test_masked_language_models_have_a_label_where_a_token_was_hidden(self, load_tokens):
        hidden = [[NO_LABEL, 6, NO_LABEL], [NO_LABEL], [9, NO_LABEL, NO_LABEL, NO_LABEL]]
        rows = load_tokens("masked_lm", label=hidden, mask=[[0, 1, 0], [0], [1, 0, 0, 0]])
        assert lists_of(rows["label"]) == hidden
        assert lists_of(rows["mask"])[0] == [False, True, False]

    def test_causal_language_models_predict_the_next_token(self, load_tokens):
        rows = load_tokens("causal_lm")
        assert lists_of(rows["label"]) == [[6, 7, NO_LABEL], [NO_LABEL], [1, 2, 3, NO_LABEL]]
        assert lists_of(rows["mask"]) == [
            [True, True, False], [False], [True, True, True, False],
        ]  # fmt: skip

    def test_a_position_counts_where_both_its_tokens_do(self, load_tokens):
        rows = load_tokens("causal_lm", mask=[[1, 1, 0], [1], [0, 1, 1, 1]])
        assert lists_of(rows["mask"]) == [
            [True, False, False], [False], [False, True, True, False],
        ]  # fmt: skip
        assert lists_of(rows["label"]) == [
            [6, NO_LABEL, NO_LABEL], [NO_LABEL], [NO_LABEL, 2, 3, NO_LABEL],
        ]  # fmt: skip

    @given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=5), min_size=1))
    def test_the_shift_is_that_of_each_block_alone(self, blocks):
        lengths = np.array([len(block) for block in blocks], np.int64)
        pairs = [pair for block in blocks for pair in block]
        tokens = Ragged(np.array([token for token, _ in pairs], np.int64), lengths)
        mask = Ragged(np.array([counts for _, counts in pairs], np.bool_), lengths)
        label, counts = next_token_labels(tokens, mask)
        for block, labels, counted in zip(blocks, lists_of(label), lists_of(counts), strict=True):
            for t in range(len(block)):
                both = t + 1 < len(block) and block[t][1] and block[t + 1][1]
                assert counted[t] == both
                assert labels[t] == (block[t + 1][0] if both else NO_LABEL)

    def test_blocks_of_one_length_are_blocks_too(self, load_tokens):
        rows = load_tokens("causal_lm", tokens=[[1, 2], [3, 4], [5, 6]])
        assert lists_of(rows["label"]) == [[2, NO_LABEL], [4, NO_LABEL], [6, NO_LABEL]]

    def test_the_form_says_that_the_length_varies(self, load):
        data = pl.DataFrame({"tokens": TOKENS, "split": ["train"] * 3})
        form = load(data, task="causal_lm", inputs="tokens", id=None, label=None).form
        tokens = InputSpec(name="tokens", dtype="int64", shape=None)
        assert form == CorpusForm(Task.CAUSAL_LM, (tokens,), True, ("train",))

    @pytest.mark.parametrize("name", ["label", "mask", "more"])
    def test_lists_that_differ_in_length_are_refused(self, load_tokens, name):
        with refused(DataError, repr(name), "not as long as"):
            load_tokens("tagging", **{name: [[0, 1, 0], [1, 1], [0, 0, 1, 1]]})

    def test_a_column_without_lists_is_refused(self, load_tokens):
        with refused(DataError, "'tokens'", "one list of numbers a sample"):
            load_tokens("tagging", tokens=[1, 2, 3])

    def test_vectors_for_each_token_are_refused(self, load_tokens):
        with refused(DataError, "'tokens'", "one list of numbers a sample"):
            load_tokens("tagging", tokens=[[[1, 2]], [[3, 4], [5, 6]], [[7, 8]]])

    def test_a_causal_language_model_has_no_label_of_its_own(self, load_tokens):
        with refused(DataError, "data.label", "next tokens"):
            load_tokens("causal_lm", label=TOKENS)

    def test_blocks_without_tokens_name_the_samples(self, load_tokens):
        with refused(DataError, "2 samples have no tokens", "000000000, 000000002;"):
            load_tokens("tagging", tokens=[[], [1, 2], []])

    def test_tokens_are_whole_numbers(self, load_tokens):
        with refused(DataError, "'tokens' holds 1.5", "whole"):
            load_tokens("causal_lm", tokens=[[1.0, 1.5], [2.0], [3.0]])

    def test_a_token_outside_the_vocabulary_is_refused(self, load_tokens):
        with refused(DataError, "'tokens' holds 9", "expected 0 to 6"):
            load_tokens("causal_lm", classes=7, tokens=[[5, 7], [8, 9], [1, 2]])

    def test_a_tag_outside_the_classes_is_refused(self, load_tokens):
        with refused(DataError, "data.label", "'label' holds 2", "expected 0 to 1"):
            load_tokens("tagging", classes=2, label=[[0, 1, 0], [2], [0, 0, 1, 1]])


class TestIndex:
    def index(self, load, data, positions_per_shard=4, **changes):
        return load(data, splits={"fractions": {"train": 1.0}}, **changes).index(
            positions_per_shard
        )

    def test_splits_are_cut_into_shards(self, load):
        shards = self.index(load, frame(10)).shards["train"]
        assert [(shard.start, shard.rows, shard.positions) for shard in shards] == [
            (0, 4, 4), (4, 4, 4), (8, 2, 2),
        ]  # fmt: skip

    def test_blocks_are_cut_by_positions(self, load):
        data = pl.DataFrame({"tokens": TOKENS})
        changes = {"task": "causal_lm", "inputs": "tokens", "id": None, "label": None}
        shards = self.index(load, data, **changes).shards["train"]
        assert [(shard.rows, shard.positions) for shard in shards] == [(2, 4), (1, 4)]

    def test_it_says_what_the_corpus_is(self, load):
        corpus = load(frame())
        index = corpus.index(4)
        assert index.form == corpus.form
        assert index.samples == {"train": 9, "test": 3}

    def test_equal_data_give_an_equal_index(self, load):
        assert self.index(load, frame(10)) == self.index(load, frame(10))

    def test_appended_rows_change_only_the_last_shard(self, load):
        before, after = (self.index(load, frame(count)).shards["train"] for count in (10, 14))
        assert after[:2] == before[:2]
        assert after[2].digest != before[2].digest
        assert len(after) == 4

    def test_rows_appended_to_full_shards_change_none(self, load):
        before, after = (self.index(load, frame(count)).shards["train"] for count in (8, 9))
        assert after[:2] == before

    @pytest.mark.parametrize("column", ["id", "x", "label"])
    def test_a_changed_row_changes_only_its_shard(self, load, column):
        data = frame(12)
        values = data[column].to_list()
        values[5] = {"id": "other", "x": 0.5, "label": 0}[column]
        before = self.index(load, data)
        after = self.index(load, data.with_columns(pl.Series(column, values, data[column].dtype)))
        changed = [
            a.digest != b.digest
            for a, b in zip(before.shards["train"], after.shards["train"], strict=True)
        ]
        assert changed == [False, True, False]
        assert before.digests != after.digests

    def test_a_column_that_is_not_used_changes_nothing(self, load):
        other = frame(10).with_columns(name=pl.lit("other"))
        assert self.index(load, frame(10)) == self.index(load, other)


class TestCorpusIndex:
    """The index is kept in the store: a finished pipeline looks, and does not read."""

    @pytest.fixture
    def loads(self):
        """The names of the corpora that were read."""
        return []

    @pytest.fixture
    def look(self, store, tmp_path, loads):
        def corpus_index_of(positions_per_shard=4, **changes):
            options = data_options(**changes)

            def opened():
                loads.append(options.name)
                return open_corpus(options, tmp_path)

            return corpus_index(store, options, tmp_path, positions_per_shard, opened)

        frame().write_parquet(tmp_path / "data.parquet")
        return corpus_index_of

    def kept(self, store) -> list[Path]:
        return list(Path(store.path, layout.CORPORA).iterdir())

    def test_the_data_are_read_once(self, look, loads):
        assert look() == look() == look()
        assert len(loads) == 1

    def test_it_is_that_of_the_corpus(self, look, tmp_path):
        expected = open_corpus(data_options(), tmp_path).index(4)
        assert look() == expected
        assert look() == expected

    def test_changed_data_are_read_again(self, look, loads, tmp_path):
        before = look()
        frame(13).write_parquet(tmp_path / "data.parquet")
        assert look() != before
        assert len(loads) == 2

    @pytest.mark.parametrize(
        "changes", [{"label": None}, {"positions_per_shard": 3}, {"inputs": ["y", "x"]}]
    )
    def test_another_question_reads_again(self, look, loads, changes):
        assert look() != look(**changes)
        assert len(loads) == 2

    @pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xff"])
    def test_a_damaged_index_is_made_again(self, look, loads, store, damage):
        before = look()
        (path,) = self.kept(store)
        sealed = path.read_bytes()
        path.write_bytes(damage or sealed[:-20])
        assert look() == before
        assert path.read_bytes() == sealed
        assert len(loads) == 2

    def test_a_store_that_cannot_be_looked_at_is_said_and_left_alone(self, look, monkeypatch):
        def unreachable(_folder: Folder, name: str) -> bool:
            raise StoreError(f"cannot look at {name}")

        look()
        monkeypatch.setattr(Folder, "exists", unreachable)
        monkeypatch.setattr(Folder, "delete", lambda *_: pytest.fail("something was deleted"))
        with refused(StoreError, "cannot look at corpora/"):
            look()

    def test_files_that_change_places_are_told_apart(self, store, tmp_path):
        for name, start in (("a", 0), ("b", 6)):
            frame(6, start=start).write_parquet(tmp_path / f"{name}.parquet")
        found = []
        for first, second in (("a", "b"), ("b", "a")):
            # Said the other way round, the files come in the same order but for other splits.
            source = dict(sorted({"train": f"{first}.parquet", "test": f"{second}.parquet"}.items(),
                                 key=lambda entry: entry[1]))  # fmt: skip
            options = data_options(source=source, splits={"file": True})
            opened = partial(open_corpus, options, tmp_path)
            found.append(corpus_index(store, options, tmp_path, 4, opened))
        assert found[0].digests["train"] == found[1].digests["test"]
        assert found[0].digests["train"] != found[1].digests["train"]

    def test_a_missing_file_is_refused(self, look, tmp_path):
        look()
        (tmp_path / "data.parquet").unlink()
        with refused(DataError, "data.parquet", "no such file"):
            look()

    @pytest.fixture
    def target(self, tmp_path, monkeypatch):
        """A target that notes each call beside itself."""
        name = f"corpus_target_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(
            "from pathlib import Path\n"
            "def columns():\n"
            "    with Path(__file__).with_name('calls').open('a') as file:\n"
            "        file.write('x')\n"
            "    return {'id': [1, 2], 'x': [1, 2], 'y': [3, 4], 'label': [0, 1],\n"
            "            'split': ['train', 'test']}\n"
        )
        (tmp_path / "calls").write_text("")
        monkeypatch.syspath_prepend(tmp_path)
        yield f"{name}:columns"
        sys.modules.pop(name, None)

    def test_a_target_with_a_version_is_called_once(self, look, target, tmp_path):
        assert look(source=target, version="1") == look(source=target, version="1")
        assert (tmp_path / "calls").read_text() == "x"
        look(source=target, version="2")
        assert (tmp_path / "calls").read_text() == "xx"

    def test_a_target_without_a_version_is_called_each_time(self, look, target, tmp_path, store):
        assert look(source=target) == look(source=target)
        assert (tmp_path / "calls").read_text() == "xx"
        assert not Path(store.path).exists()

    def test_a_missing_target_is_refused(self, look):
        with refused(RecipeError, "'nothing_there:columns'"):
            look(source="nothing_there:columns", version="1")
