"""Streams: every sample once an epoch, in an order that any interruption leaves as it was."""

import itertools
import json
import threading

import numpy as np
import pytest
import torch

from storage.errors import RecipeError, StoreError
from storage.options import LabelOptions
from storage.rows import Ragged
from tasks.collate import collate
from tasks.nn.counts import Counts
from tasks.sources import CorpusSource, LabelSource
from tasks.stream import Stream
from tests.tasks.interruption import assert_interrupted_equals_uninterrupted, once_and_twice
from tests.tasks.toy import (
    TableTeacher,
    block_corpus,
    label_set,
    numbered_corpus,
    random_table,
    text_corpus,
)

OPTIONS = LabelOptions(
    k=2, temperature=2.0, batch_size=4, positions_per_shard=9, positions_per_row_group=4
)
SAMPLES = 23
EPOCHS = 3


@pytest.fixture
def source(store):
    corpus = numbered_corpus({"train": SAMPLES, "test": 6})
    labels = label_set(store, corpus, TableTeacher(random_table(40)), OPTIONS)
    yield LabelSource(labels, "train")
    labels.close()


def joined(batches):
    return list(itertools.chain.from_iterable(batches))


def ids_of(stream, epochs=1):
    """The ids of each batch, to the end of epoch number `epochs`."""
    found = []
    while stream.epoch < epochs:
        found += [list(batch.sample_ids) for batch in stream]
    return found


@pytest.mark.parametrize("batch_size", [1, 4, 5, 23, 100])
@pytest.mark.parametrize("window", [1, 2, 16])
def test_an_epoch_gives_every_sample_once_and_the_last_batch_is_smaller(source, batch_size, window):
    stream = Stream(source, batch_size, seed=1, window=window)
    batches = ids_of(stream)
    assert sorted(joined(batches)) == sorted(f"train-{n}" for n in range(SAMPLES))
    sizes = [len(batch) for batch in batches]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sizes[-1] == SAMPLES - sum(sizes[:-1])
    assert stream.batches_per_epoch == len(batches)


def test_epochs_and_seeds_differ_and_repeat(source):
    first = ids_of(Stream(source, 5, seed=1), 2)
    assert first[:5] != first[5:]
    assert ids_of(Stream(source, 5, seed=1), 2) == first
    assert ids_of(Stream(source, 5, seed=2), 2) != first


def test_the_sequence_of_samples_is_the_same_for_any_batch_size(source):
    orders = [joined(ids_of(Stream(source, size, seed=3), 2)) for size in (1, 4, 7)]
    assert orders[0] == orders[1] == orders[2]


def test_without_shuffling_it_is_the_stored_order(source):
    assert joined(ids_of(Stream(source, 4, shuffle=False))) == [
        f"train-{n}" for n in range(SAMPLES)
    ]


class Watched:
    """A source that notes which row groups are read."""

    def __init__(self, source):
        self.source = source
        self.groups = []

    def __getattr__(self, name):
        return getattr(self.source, name)

    def read(self, group):
        self.groups.append(group)
        return self.source.read(group)


def test_what_is_read_ahead_is_a_window_at_most(source):
    watched = Watched(source)
    batches = iter(Stream(watched, 1, window=2))
    next(batches)
    batches.close()
    # The window of the batch, as many row groups that wait, and one that is being read.
    assert 2 <= len(watched.groups) <= 2 + 2 + 1 < len(source.group_sizes)


def test_what_comes_before_the_position_is_not_read_again(source):
    watched = Watched(source)
    stream = Stream(watched, 4, window=2)
    stream.restore({**stream.state(), "consumed": SAMPLES - 1})
    assert len(ids_of(stream)) == 1
    assert len(watched.groups) == 1
    assert len(source.group_sizes) == 8


def test_nothing_runs_on_when_iterating_is_given_up(source):
    before = set(threading.enumerate())
    stream = Stream(source, 1, window=2)
    for _ in stream:
        break
    assert set(threading.enumerate()) == before
    # It goes on where it was left.
    assert len(joined(ids_of(stream))) == SAMPLES - 1


# --- ranks --------------------------------------------------------------------------------------


def streams(source, world, **said):
    return [Stream(source, rank=rank, world=world, **said) for rank in range(world)]


def counting_ids(batch):
    """The ids of a batch's samples, none of a stand-in's."""
    there = (batch.lengths_B > 0).tolist()
    assert there
    assert all(there) or not (any(there) or batch.num_positions)
    return list(itertools.compress(batch.sample_ids, there))


def global_batches(ranks, epochs=1):
    """What all ranks have of each batch, in the order of the ranks; stand-ins left out."""
    each = [[] for _ in ranks]
    for found, stream in zip(each, ranks, strict=True):
        while stream.epoch < epochs:
            found += map(counting_ids, stream)
    return [joined(parts) for parts in zip(*each, strict=True)]


@pytest.mark.parametrize("batch_size", [4, 5, 23, 100])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_global_batches_are_the_same_for_any_number_of_ranks(source, batch_size, world):
    said = {"batch_size": batch_size, "seed": 3, "window": 2}
    whole = ids_of(Stream(source, **said), 2)
    ranks = streams(source, world, **said)
    assert global_batches(ranks, 2) == whole
    assert {stream.batches_per_epoch for stream in ranks} == {len(whole) / 2}


def test_parts_differ_by_one_sample_at_most(source):
    sizes = [[batch.num_samples for batch in stream] for stream in streams(source, 3, batch_size=7)]
    assert list(zip(*sizes, strict=True)) == [(2, 2, 3)] * 3 + [(1, 1, 1)]


def test_a_rank_without_a_sample_of_the_last_batch_gets_one_that_counts_nowhere(source):
    last = [list(stream)[-1] for stream in streams(source, 4, batch_size=7)]
    assert [Counts.of(batch).samples for batch in last] == [0, 1, 0, 1]
    assert [Counts.of(batch).positions for batch in last] == [0, 1, 0, 1]
    assert [Counts.of(batch).real for batch in last] == [0, 1, 0, 1]
    assert all(batch.num_samples == len(batch.inputs[0]) == 1 for batch in last)


def test_a_rank_reads_only_row_groups_that_its_samples_lie_in(source):
    watched = Watched(source)
    list(Stream(watched, 23, shuffle=False, rank=1, world=4))
    assert watched.groups == [1, 2, 3]


def test_a_batch_smaller_than_the_number_of_ranks_is_refused(source):
    with pytest.raises(RecipeError, match="3 samples cannot be divided among 4 processes"):
        Stream(source, 3, rank=0, world=4)
    with pytest.raises(RecipeError, match="expected a rank from 0 to 1, got 2"):
        Stream(source, 3, rank=2, world=2)


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_goes_on_from_a_position(source, world):
    said = {"batch_size": 5, "seed": 7, "window": 2}
    whole = ids_of(Stream(source, **said), EPOCHS)
    stream = Stream(source, **said)
    seen = 0
    while stream.epoch < EPOCHS:
        for _ in stream:
            seen += 1
            ranks = streams(source, world, **said)
            for rank in ranks:
                rank.restore(json.loads(json.dumps(stream.state())))
            batches = [next(iter(rank), None) for rank in ranks]
            if batches[0] is not None:
                assert joined(map(counting_ids, batches)) == whole[seen]
                assert {json.dumps(rank.state()) for rank in ranks} == {
                    json.dumps(ranks[0].state())
                }


@pytest.mark.parametrize(("batch_size", "window"), [(5, 2), (23, 1), (4, 16), (1, 3)])
def test_interrupted_equals_uninterrupted(source, batch_size, window):
    def run(stops):
        stream = Stream(source, batch_size, seed=7, window=window)
        found = []
        for stop in (*stops, None):
            state = json.loads(json.dumps(stream.state()))
            stream = Stream(source, batch_size, seed=7, window=window)
            stream.restore(state)
            count = None if stop is None else stop - len(found)
            found += itertools.islice(forever(stream), count)
        return found

    def forever(stream):
        while stream.epoch < EPOCHS:
            for batch in stream:
                yield list(batch.sample_ids), batch.logit_PK.tolist(), batch.label_P.tolist()

    total = EPOCHS * Stream(source, batch_size).batches_per_epoch
    step = max(1, total // 8)
    assert_interrupted_equals_uninterrupted(run, once_and_twice(total, step))


def test_the_position_is_a_few_plain_values(source):
    stream = Stream(source, 5, seed=7)
    batches = iter(stream)
    next(batches)
    next(batches)
    assert stream.state() == {
        "digest": source.digest,
        "seed": 7,
        "window": 16,
        "epoch": 0,
        "consumed": 10,
    }
    assert Stream(source, 5, shuffle=False).state()["window"] == 0


@pytest.mark.parametrize(("key", "value"), [("digest", "0" * 64), ("seed", 8), ("window", 3)])
def test_a_position_in_other_content_or_another_order_is_refused(source, key, value):
    stream = Stream(source, 5, seed=7)
    with pytest.raises(StoreError, match=f"belongs to the {key} "):
        stream.restore({**stream.state(), key: value})


def test_a_position_beyond_the_end_is_refused(source):
    stream = Stream(source, 5)
    with pytest.raises(StoreError, match="after 24 samples, an epoch has 23"):
        stream.restore({**stream.state(), "consumed": 24})


def test_a_batch_holds_what_was_stored(source):
    table = torch.tensor(random_table(40))
    for batch in Stream(source, 5):
        (rows,) = batch.inputs
        assert rows.dtype == torch.int64
        teacher_PC = table[rows[:, 0]]
        best_P = teacher_PC.amax(dim=1, keepdim=True)
        expected = (teacher_PC.gather(1, batch.index_PK) - best_P) / 2.0
        torch.testing.assert_close(batch.logit_PK, expected, rtol=2**-11, atol=0)
        assert batch.logit_PK.dtype == batch.rest_PT.dtype == torch.float32
        assert batch.label_P.dtype == batch.index_PK.dtype == torch.int64
        assert batch.label_P.tolist() == (rows[:, 0] % 5).tolist()
        assert batch.temperatures == (2.0, 1.0)
        assert batch.rest_PT.shape == (len(rows), 2)
        assert batch.mask_P.all()
        assert batch.real_P.all()
        assert batch.weight_PK is None


def test_a_corpus_in_memory_streams_alike():
    corpus = numbered_corpus({"train": 2500, "test": 3})
    source = CorpusSource(corpus, "train")
    assert source.group_sizes == (1024, 1024, 452)
    stream = Stream(source, 64, seed=1, window=2)
    batches = list(stream)
    found = joined(batch.sample_ids for batch in batches)
    assert sorted(found) == sorted(f"train-{n}" for n in range(2500))
    first = batches[0]
    assert first.index_PK.shape == first.logit_PK.shape == (64, 0)
    assert first.rest_PT is None
    assert first.temperatures == ()
    assert first.label_P.tolist() == [int(name[6:]) % 5 for name in first.sample_ids]


def test_without_labels_there_is_none():
    corpus = numbered_corpus({"train": 3}, label=False)
    (batch,) = Stream(CorpusSource(corpus, "train"), 3)
    assert batch.label_P.tolist() == [-100, -100, -100]
    assert batch.label_logit_P is None


# --- blocks of tokens ---------------------------------------------------------------------------

BLOCKS = [[1, 2, 3], [4], [5, 6, 0, 1], [2, 3]]
MASK = [[True, False, True], [True], [True, True, True, True], [False, False]]


def test_blocks_are_padded_and_padding_does_not_count():
    rows = block_corpus(BLOCKS, MASK).splits["train"]
    batch = collate(rows, ())
    (tokens,) = batch.inputs
    assert tokens.tolist() == [[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 0, 1], [2, 3, 0, 0]]
    expected = [row + [False] * (4 - len(row)) for row in MASK]
    assert batch.mask_P.reshape(4, 4).tolist() == expected
    lengths = batch.real_P.reshape(4, 4).sum(dim=1).tolist()
    assert lengths == [3, 1, 4, 2]
    label = batch.label_P.reshape(4, 4)
    assert label[0].tolist() == [1, -100, 0, -100]
    assert label[1].tolist() == [1, -100, -100, -100]


def test_texts_are_padded_and_have_one_position_each():
    rows = text_corpus(BLOCKS).splits["train"]
    batch = collate(rows, ())
    tokens, attention_mask = batch.inputs
    assert tokens.tolist() == [[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 0, 1], [2, 3, 0, 0]]
    assert attention_mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.label_P.tolist() == [1, 1, 2, 2]
    assert batch.mask_P.tolist() == batch.real_P.tolist() == [True] * 4


@pytest.mark.parametrize("corpus", [text_corpus(BLOCKS), block_corpus(BLOCKS, MASK)])
def test_a_batch_may_be_padded_further(corpus):
    rows = corpus.splits["train"]
    short, long = collate(rows, ()), collate(rows, (), padded_length=6)
    for before, after in zip(short.inputs, long.inputs, strict=True):
        assert torch.equal(after[:, :4], before)
        assert after.shape == (4, 6)
        assert not after[:, 4:].any()
    assert long.label_P[long.real_P].tolist() == short.label_P[short.real_P].tolist()
    with pytest.raises(ValueError, match="4 values do not fit into 3"):
        collate(rows, (), padded_length=3)


def test_stored_blocks_come_back_position_by_position(store):
    table = random_table(7, 3)
    labels = label_set(store, block_corpus(BLOCKS, MASK), TableTeacher(table), OPTIONS)
    seen = 0
    for batch in Stream(LabelSource(labels, "train"), 3, seed=1):
        tokens = batch.inputs[0].reshape(-1)
        real = batch.real_P
        best = torch.tensor(table.argmax(axis=1))[tokens]
        assert torch.equal(batch.teacher_best_P[real], best[real])
        assert torch.isneginf(batch.logit_PK[~real]).all()
        assert torch.isneginf(batch.rest_PT[~real]).all()
        assert not batch.mask_P[~real].any()
        seen += int(real.sum())
    assert seen == 10
    labels.close()


def test_types_of_inputs():
    rows = {
        "sample_id": np.array(["a", "b"], dtype=object),
        "input.small": np.zeros((2, 3), np.uint8),
        "input.wide": np.zeros((2, 3), np.float64),
        "input.flag": np.ones((2,), np.bool_),
        "input.list": Ragged(np.arange(3, dtype=np.uint16), np.array([1, 2])),
    }
    dtypes = [entry.dtype for entry in collate(rows, ()).inputs]
    assert dtypes == [torch.int64, torch.float32, torch.int64, torch.int64]


def test_a_source_names_its_content():
    one, other = (
        CorpusSource(c, "train").digest
        for c in (numbered_corpus({"train": 5}), numbered_corpus({"train": 6}))
    )
    assert one != other


def test_a_sample_that_could_not_be_made_does_not_count():
    rows = {
        "sample_id": np.array(["a", "b"], dtype=object),
        "input.x": np.zeros((2, 3), np.float32),
        "label": np.array([1, 0]),
        "bad": np.array(["", "the image is damaged"], dtype=object),
    }
    assert collate(rows, ()).mask_P.tolist() == [True, False]
    blocks = {
        "sample_id": rows["sample_id"],
        "input.tokens": Ragged(np.arange(3), np.array([2, 1])),
        "mask": Ragged(np.ones(3, np.bool_), np.array([2, 1])),
        "bad": rows["bad"],
    }
    assert collate(blocks, ()).mask_P.tolist() == [True, True, False, False]
