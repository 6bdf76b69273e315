"""A corpus with views: any range of rows, the digests that name them, and the cut into shards."""

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.corpus import CorpusIndex, MemoryCorpus, positions_of
from storage.errors import RecipeError
from storage.options import DataOptions, Task
from storage.rows import Ragged, num_rows, part
from storage.spec import CorpusForm, InputSpec
from storage.viewed_corpus import with_views
from tests.storage.refusal import refused

DATA = {"name": "toy", "source": "toy.csv", "inputs": "tokens", "splits": {"column": "split"}}
DROP = {"kind": "token_drop", "p": 0.2, "id": 0}
TOKENS = InputSpec(name="tokens", dtype="int64", shape=None)


def options(**changes) -> DataOptions:
    return DataOptions.model_validate(DATA | {"views": 3, "augment": [DROP]} | changes)


def blocks(split: str, lengths: Sequence[int]) -> dict:
    lengths_B = np.array(lengths)
    values = np.arange(lengths_B.sum()) + 1
    return {
        "sample_id": np.array([f"{split}-{place}" for place in range(len(lengths))], object),
        "input.tokens": Ragged(values, lengths_B),
        "mask": Ragged(np.ones(len(values), np.bool_), lengths_B),
    }


def corpus(train: Sequence[int] = (2, 1, 4, 3), task: Task = Task.TAGGING) -> MemoryCorpus:
    form = CorpusForm(task, (TOKENS,), False, ("train", "test"))
    return MemoryCorpus(form, {"train": blocks("train", train), "test": blocks("test", [2, 2])})


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, column in expected.items():
        if isinstance(column, Ragged):
            assert np.array_equal(found[name].values_NW, column.values_NW)
            assert np.array_equal(found[name].lengths_B, column.lengths_B)
        else:
            assert np.array_equal(found[name], column)


def test_without_steps_it_is_the_corpus_itself():
    plain = corpus()
    assert with_views(plain, options(views=1, augment=[])) is plain


def test_only_the_training_split_grows():
    viewed = with_views(corpus(), options())
    assert viewed.samples == {"train": 12, "test": 2}
    assert (viewed.form.views, viewed.form.augment) == (3, options().augment)
    assert viewed.form.augment_of("test") == ()
    assert_same(viewed.read("test", 0, 2), corpus().read("test", 0, 2))
    assert viewed.digest_of_split("test") == corpus().digest_of_split("test")
    assert viewed.digest("test", 0, 1) == corpus().digest("test", 0, 1)


@given(st.integers(1, 4), st.data())
def test_any_range_is_that_of_the_whole(count, data):
    viewed = with_views(corpus(), options(views=count))
    whole = viewed.read("train", 0, 4 * count)
    start = data.draw(st.integers(0, 4 * count - 1))
    stop = data.draw(st.integers(start + 1, 4 * count))
    assert_same(viewed.read("train", start, stop), part(whole, start, stop))
    assert whole["view"].tolist() == [*range(count)] * 4
    some = viewed.read("train", start, stop, ["view_seed", "mask"])
    assert_same(some, part({name: whole[name] for name in ("view_seed", "mask")}, start, stop))
    assert sum(map(num_rows, viewed.parts("train", size=3))) == 4 * count


@given(st.integers(1, 4), st.integers(1, 12))
def test_shards_are_cut_by_the_positions_of_all_views(count, limit):
    viewed = with_views(corpus(), options(views=count))
    shards = viewed.shards(limit)["train"]
    assert [shard.start for shard in shards[1:]] == [s.start + s.rows for s in shards[:-1]]
    assert sum(shard.rows for shard in shards) == 4 * count
    for shard in shards:
        rows = viewed.read("train", shard.start, shard.start + shard.rows)
        assert shard.positions == int(positions_of(rows).sum())
        assert shard.rows == 1 or shard.positions <= limit
    assert len({shard.digest for shard in shards}) == len(shards)


def test_what_makes_other_views_makes_other_digests():
    digests = [
        with_views(corpus(train), options(**changes)).digest_of_split("train")
        for train, changes in (
            ([2, 1, 4, 3], {}),
            ([2, 1, 4, 4], {}),
            ([2, 1, 4, 3], {"views": 2}),
            ([2, 1, 4, 3], {"augment_seed": 1}),
            ([2, 1, 4, 3], {"original_first": True}),
        )
    ]
    assert len({*digests, corpus().digest_of_split("train")}) == 6


def test_more_samples_change_the_last_shard_at_most():
    before = with_views(corpus([1, 1, 1]), options()).shards(4)["train"]
    after = with_views(corpus([1, 1, 1, 1, 1]), options()).shards(4)["train"]
    assert before[:2] == after[:2]
    assert before[2].rows == 1


def test_the_index_says_what_views_there_are():
    viewed = with_views(corpus(), options())
    index = viewed.index(4)
    assert CorpusIndex.model_validate(index.model_dump(mode="json")) == index
    assert index.form == viewed.form
    assert index.samples["train"] == 12


def test_it_can_be_pickled_and_closed():
    viewed = with_views(corpus(), options())
    assert_same(pickle.loads(pickle.dumps(viewed)).read("train", 0, 5), viewed.read("train", 0, 5))
    viewed.close()
    assert viewed.is_closed


@pytest.mark.parametrize("task", [Task.CAUSAL_LM, Task.MASKED_LM])
def test_a_task_that_has_no_views_is_refused(task):
    with refused(RecipeError, "data.augment: the labels of a language model"):
        with_views(corpus(task=task), options())
