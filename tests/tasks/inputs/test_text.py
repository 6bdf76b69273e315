import numpy as np
import pytest

from storage.data_options import DataOptions
from storage.errors import DataError
from storage.rows import Ragged
from tasks.inputs.text import classified, outputs_of, tagged
from tasks.inputs.tokenizers import ByteTokenizer
from tests.storage.refusal import refused
from tests.tasks.inputs.hugging import CLS, LIKE, LY, SEP, UN, A, B, C


def options(**changes) -> DataOptions:
    said = {"name": "texts", "source": "a.csv", "inputs": "text", "splits": {"column": "part"}}
    return DataOptions.model_validate(said | {"tokens": {}} | changes)


def texts(*values) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def lists(column: Ragged) -> list[list[int]]:
    return [part.tolist() for part in np.split(column.values_NW, np.cumsum(column.lengths_B)[:-1])]


def test_texts_become_ids_and_a_mask_and_other_columns_stay(words):
    chunk = {"text": texts("a b", "c"), "mood": np.array([1, 0])}
    found = classified(chunk, options(), words)
    assert list(found) == ["mood", "input_ids", "attention_mask", "bad"]
    assert lists(found["input_ids"]) == [[CLS, A, B, SEP], [CLS, C, SEP]]
    assert lists(found["attention_mask"]) == [[1] * 4, [1] * 3]
    assert found["bad"].tolist() == ["", ""]


def test_pairs_of_texts_have_types(words):
    two = options(
        inputs=["left", "right"],
        tokens={"outputs": ["input_ids", "token_type_ids", "attention_mask"]},
    )
    assert outputs_of(two) == ("input_ids", "token_type_ids", "attention_mask")
    found = classified({"left": texts("a"), "right": texts("b")}, two, words)
    assert lists(found["input_ids"]) == [[CLS, A, SEP, B, SEP]]
    assert lists(found["token_type_ids"]) == [[0, 0, 0, 1, 1]]


def test_a_text_that_is_too_long_is_cut_or_bad(words):
    chunk = {"text": texts("a b c", "a")}
    cut = classified(dict(chunk), options(tokens={"max_length": 4}), words)
    assert lists(cut["input_ids"])[0] == [CLS, A, B, SEP]
    strict = classified(dict(chunk), options(tokens={"max_length": 4, "too_long": "bad"}), words)
    assert strict["bad"].tolist() == ["the text has 5 tokens, 4 are allowed", ""]
    assert lists(strict["input_ids"]) == [[0], [CLS, A, SEP]]


def test_what_is_no_utf8_or_empty_is_bad():
    found = classified(
        {"text": texts(b"ok", b"x\xff", "", b"\xef\xbb\xbfbom")}, options(), ByteTokenizer()
    )
    assert found["bad"].tolist() == [
        "",
        "the text is not UTF-8 at byte 1",
        "the text has no tokens",
        "",
    ]
    assert lists(found["input_ids"]) == [[111, 107], [0], [0], [98, 111, 109]]


def test_numbers_are_no_texts(words):
    with refused(DataError, "data.inputs", "'text' holds no texts"):
        classified({"text": np.arange(3)}, options(), words)


TAGGING = {"task": "tagging", "inputs": "words", "label": "tags"}


def words_column(*lines) -> Ragged:
    flat = texts(*[word for line in lines for word in line])
    return Ragged(flat, np.array([len(line) for line in lines]))


def test_a_words_label_belongs_to_its_first_token(words):
    chunk = {
        "words": words_column(["a", "unlikely"], ["c"]),
        "tags": Ragged(np.array([1, 2, 0]), np.array([2, 1])),
        "part": texts("train", "test"),
    }
    found = tagged(chunk, options(**TAGGING), words)
    assert lists(found["input_ids"]) == [[CLS, A, UN, LIKE, LY, SEP], [CLS, C, SEP]]
    assert lists(found["tags"]) == [[-100, 1, 2, -100, -100, -100], [-100, 0, -100]]
    assert lists(found["mask"]) == [[False, True, True, False, False, False], [False, True, False]]
    assert found["part"].tolist() == ["train", "test"]


def test_labels_may_be_names_and_words_may_not_count(words):
    chunk = {
        "words": np.array([["a", "b"]], dtype=object),
        "tags": np.array([["noun", "verb"]], dtype=object),
        "counts": np.array([[True, False]]),
    }
    said = options(**TAGGING, classes=["verb", "noun"], mask="counts")
    found = tagged(dict(chunk), said, words)
    assert lists(found["tags"]) == [[-100, 1, 0, -100]]
    assert lists(found["counts"]) == [[False, True, False, False]]
    with refused(DataError, "data.label", "'verb'", "not among data.classes"):
        tagged(dict(chunk), options(**TAGGING, classes=["noun"]), words)
    with refused(DataError, "data.classes"):
        tagged(dict(chunk), options(**TAGGING), words)


def test_words_and_labels_are_as_many(words):
    chunk = {"words": words_column(["a", "b"]), "tags": np.array([[1, 2, 3]])}
    with refused(DataError, "2 words", "3 values of 'tags'"):
        tagged(chunk, options(**TAGGING), words)


@pytest.mark.parametrize("column", ["texts", "numbers"])
def test_tagging_takes_lists(words, column):
    chunk = {"words": texts("a b") if column == "texts" else np.arange(2), "tags": np.array([[1]])}
    with refused(DataError, "'words' must hold a list for each sample"):
        tagged(chunk, options(**TAGGING), words)
