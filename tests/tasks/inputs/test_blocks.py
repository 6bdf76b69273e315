import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.class_ids import ClassNames
from storage.data_options import DataOptions
from storage.errors import DataError
from storage.meaning import Meaning
from storage.rows import Ragged
from storage.samples import prepare
from tasks.inputs.preparations import TextPreparation
from tasks.inputs.tokenizers import ByteTokenizer
from tests.storage.refusal import refused

DOCUMENTS = st.lists(st.text("abcé\n", max_size=12), min_size=1, max_size=10)
END = 256


def options(**changes) -> DataOptions:
    said = {
        "name": "texts",
        "source": "a.jsonl",
        "inputs": "text",
        "task": "causal_lm",
        "splits": {"fractions": {"train": 1.0}},
        "tokens": {"block": 8, "tokenizer": "bytes"},
    }
    return DataOptions.model_validate(said | changes)


def chunks(documents, size: int = 3):
    for start in range(0, len(documents), size):
        some = documents[start : start + size]
        text = np.empty(len(some), dtype=object)
        text[:] = some
        names = [f"doc-{start + place}" for place in range(len(some))]
        yield {"sample_id": np.array(names, dtype=object), "text": text}


def blocks(documents, said: DataOptions) -> dict:
    """All rows that documents become, as the corpus holds them."""
    preparation = TextPreparation(said, ByteTokenizer())
    made = list(preparation(chunks(documents)))
    assert len(made) == 1
    meaning = Meaning(said, "", preparation.inputs, ClassNames(None), is_prepared=True)
    return dict(prepare(made[0], meaning, 0))


def split(column: Ragged) -> list[np.ndarray]:
    return np.split(column.values_NW, np.cumsum(column.lengths_B)[:-1])


@given(DOCUMENTS, st.integers(2, 9))
def test_every_token_is_there_and_no_target_crosses_a_border(documents, block):
    if not any(documents):
        return
    rows = blocks(documents, options(tokens={"block": block, "tokenizer": "bytes"}))
    tokens = rows["input.input_ids"]
    expected = [t for text in documents if text for t in [*text.encode(), END]]
    assert tokens.values_NW.tolist() == expected
    for ids, label, mask in zip(
        split(tokens), split(rows["label"]), split(rows["mask"]), strict=True
    ):
        for place in range(len(ids)):
            last = place == len(ids) - 1
            assert mask[place] == (not last and ids[place] != END)
            assert label[place] == (ids[place + 1] if mask[place] else -100)


def test_without_separators_borders_are_kept_too():
    said = options(tokens={"block": 8, "tokenizer": "bytes", "separator": False})
    rows = blocks(["ab", "cde"], said)
    assert rows["input.input_ids"].values_NW.tolist() == [*b"abcde"]
    assert rows["mask"].values_NW.tolist() == [True, False, True, True, False]


def test_documents_can_be_an_input():
    said = options(tokens={"block": 6, "tokenizer": "bytes", "outputs": ["input_ids", "document"]})
    rows = blocks(["ab", "cde"], said)
    assert [column.tolist() for column in split(rows["input.document"])] == [
        [0, 0, 0, 1, 1, 1],
        [0],
    ]
    assert rows["sample_id"].tolist() == ["doc-0:0", "doc-1:3"]


def test_a_document_that_is_no_utf8_is_a_bad_sample_of_its_own():
    rows = blocks([b"ab", b"\xff", b"c"], options())
    assert rows["sample_id"].tolist() == ["doc-1", "doc-0:0"]
    assert rows["bad"].tolist() == ["the text is not UTF-8 at byte 0", ""]
    assert rows["input.input_ids"].values_NW.tolist() == [0, *b"ab", END, *b"c", END]
    assert rows["mask"].values_NW.tolist() == [False, True, True, False, True, False]


def test_documents_of_different_splits_share_no_block():
    said = options(splits={"fractions": {"train": 0.5, "test": 0.5}})
    preparation = TextPreparation(said, ByteTokenizer())
    documents = [letter * 5 for letter in "abcdefghij"]
    (chunk,) = preparation(chunks(documents))
    owner: dict[int, set[str]] = {}
    for ids, name in zip(split(chunk["input_ids"]), chunk["split"], strict=True):
        for token in set(ids.tolist()) - {END}:
            owner.setdefault(token, set()).add(name)
    assert all(len(names) == 1 for names in owner.values())
    assert set(chunk["split"]) == {"train", "test"}


@given(DOCUMENTS.filter(lambda texts: any(texts)), st.integers(0, 3))
def test_masked_tokens_are_the_labels_and_nothing_else_counts(documents, seed):
    tokens = {"block": 8, "tokenizer": "bytes", "mask_share": 0.3, "seed": seed}
    rows = blocks(documents, options(task="masked_lm", tokens=tokens))
    ids, label, mask = (rows[name].values_NW for name in ("input.input_ids", "label", "mask"))
    expected = [t for text in documents if text for t in [*text.encode(), END]]
    assert np.where(mask, label, ids).tolist() == expected
    assert (ids[mask] == 256).all()
    assert (label[~mask] == -100).all()
    assert all(part.any() for part in split(rows["mask"]))
    assert list(rows)[1:3] == ["input.input_ids", "input.attention_mask"]


def test_tokenizers_without_what_is_needed_are_refused():
    class Bare(ByteTokenizer):
        separator = None
        mask = None

    with refused(DataError, "no token for the end of a text", "separator: false"):
        list(TextPreparation(options(), Bare())(chunks(["a"])))
    with refused(DataError, "no mask token"):
        list(TextPreparation(options(task="masked_lm"), Bare())(chunks(["a"])))


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm"])
def test_the_vocabulary_is_the_number_of_classes(task):
    assert TextPreparation(options(task=task), ByteTokenizer()).num_classes == 257
