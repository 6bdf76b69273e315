"""Streams whose data are read in processes of their own: the same batches, and no process left."""

import os
import signal

import numpy as np
import psutil
import pytest

from storage.errors import IntegrityError, StoreError
from storage.options import LabelOptions
from tasks.sources import CorpusSource, LabelSource
from tasks.stream import Stream
from tests.tasks.toy import (
    TableTeacher,
    block_corpus,
    label_set,
    numbered_corpus,
    random_table,
)

OPTIONS = LabelOptions(
    k=2, temperature=2.0, batch_size=4, positions_per_shard=9, positions_per_row_group=4
)
SAMPLES = 23


@pytest.fixture
def labels(store):
    corpus = numbered_corpus({"train": SAMPLES, "test": 6})
    labels = label_set(store, corpus, TableTeacher(random_table(40)), OPTIONS)
    yield labels
    labels.close()


def content(batch):
    return batch.sample_ids, batch.logit_PK.tolist(), batch.rest_PT.tolist(), batch.label_P.tolist()


def contents(stream, epochs):
    found = []
    while stream.epoch < epochs:
        found += [(*map(list, content(batch)[:1]), *content(batch)[1:]) for batch in stream]
    return found


def readers():
    """The processes that read for this one."""
    children = psutil.Process().children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_batches_are_the_same_and_processes_stay_until_it_is_given_up(labels):
    source = LabelSource(labels, "train")
    said = {"batch_size": 5, "seed": 3, "window": 2}
    whole = contents(Stream(source, **said), 2)
    stream = Stream(source, **said, workers=2)
    found = contents(stream, 1)
    first = readers()
    assert len(first) == 2
    found += contents(stream, 2)
    assert readers() == first
    assert found == whole
    stream.restore({**stream.state(), "epoch": 1})
    for _ in stream:
        break
    assert readers() == []
    assert contents(stream, 2) == whole[stream.batches_per_epoch + 1 :]
    assert len(readers()) == 2
    del stream
    assert readers() == []


@pytest.mark.slow
def test_fewer_windows_than_workers_start_fewer_processes(labels):
    stream = Stream(LabelSource(labels, "test"), 4, window=1, workers=3)
    assert len(contents(stream, 1)) == 2
    assert len(readers()) == 2
    stream.close()
    assert readers() == []


def test_a_killed_worker_is_one_clear_error(labels):
    stream = Stream(LabelSource(labels, "train"), 1, window=1, workers=2)
    batches = iter(stream)
    next(batches)
    for child in readers():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(StoreError, match=r"reads the data was ended by SIGKILL \(out of memory"):
        list(batches)
    assert readers() == []
    # It goes on after the last batch that was given out.
    left = SAMPLES - stream.consumed
    assert 0 < len(contents(stream, 1)) == left
    stream.close()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "is damaged"),
        (lambda path: path.unlink(), "is missing"),
    ],
    ids=["damaged", "deleted"],
)
def test_a_shard_that_is_not_as_it_was_is_one_clear_error(labels, workers, harm, said, tmp_path):
    stream = Stream(LabelSource(labels, "train"), 2, window=1, workers=workers)
    (path,) = tmp_path.rglob(labels.shards("train")[-1].file)
    harm(path)
    with pytest.raises(IntegrityError, match=said):
        list(stream)
    assert readers() == []


class Closures(CorpusSource):
    def __init__(self, corpus, split):
        super().__init__(corpus, split)
        self.made_here = lambda: None


def test_a_source_that_cannot_be_sent_is_refused():
    source = Closures(numbered_corpus({"train": 5}), "train")
    with pytest.raises(StoreError, match=r"cannot be sent to worker processes: .*workers=0"):
        list(Stream(source, 2, workers=1))


class Failing(CorpusSource):
    def read(self, group):
        raise ZeroDivisionError(f"in group {group}")


def test_what_goes_wrong_in_a_worker_is_said():
    source = Failing(numbered_corpus({"train": 5}), "train")
    with pytest.raises(StoreError, match="reads the data failed: ZeroDivisionError: in group 0"):
        list(Stream(source, 2, workers=1))


@pytest.mark.slow
def test_blocks_of_varying_length_and_batches_outlive_their_worker():
    blocks = [[n % 7] * (1 + n % 3) for n in range(2500)]
    corpus = block_corpus(blocks, [[True] * len(block) for block in blocks])
    source = CorpusSource(corpus, "train")
    expected = list(Stream(source, 100, seed=1, window=2))
    stream = Stream(source, 100, seed=1, window=2, workers=2)
    found = list(stream)
    stream.close()
    for mine, theirs in zip(found, expected, strict=True):
        assert list(mine.sample_ids) == list(theirs.sample_ids)
        assert np.array_equal(mine.inputs[0].numpy(), theirs.inputs[0].numpy())
        assert np.array_equal(mine.label_P.numpy(), theirs.label_P.numpy())
        mine.inputs[0].add_(1)  # they are the receiver's own
