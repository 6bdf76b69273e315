"""One sequence of global batches: for any number of ranks and workers, interrupted anywhere."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.files import Folder
from storage.options import LabelOptions
from tasks.sources import CorpusSource, LabelSource
from tasks.stream import Stream
from tests.tasks.interruption import assert_interrupted_equals_uninterrupted, once_and_twice
from tests.tasks.toy import TableTeacher, label_set, numbered_corpus, random_table

# Shards of 9, 9 and 5 samples, in row groups of 4, 4, 1, 4, 4, 1, 4 and 1.
OPTIONS = LabelOptions(
    k=2, temperature=2.0, batch_size=4, positions_per_shard=9, positions_per_row_group=4
)
SAMPLES, FEW = 23, 5
EPOCHS = 2
SAID = {"batch_size": 6, "seed": 7, "window": 2}


@pytest.fixture(scope="module", params=[SAMPLES, FEW], ids=["many", "few"])
def source(request, tmp_path_factory):
    store = Folder.open(tmp_path_factory.mktemp("elastic"))
    corpus = numbered_corpus({"train": request.param})
    labels = label_set(store, corpus, TableTeacher(random_table(40)), OPTIONS)
    yield LabelSource(labels, "train")
    labels.close()


def forever(stream, epochs):
    while stream.epoch < epochs:
        yield from stream


def samples_of(batch):
    """What there is of each sample that counts, as plain values."""
    columns = (batch.inputs[0], batch.index_PK, batch.logit_PK, batch.rest_PT, batch.label_P)
    rows = zip(batch.sample_ids, *(column.tolist() for column in columns), strict=True)
    return list(itertools.compress(rows, (batch.lengths_B > 0).tolist()))


def global_batches(ranks, count=None, epochs=EPOCHS):
    """The parts of all ranks side by side, batch after batch."""
    parts = zip(*(forever(rank, epochs) for rank in ranks), strict=False)
    return [
        [sample for part in batch for sample in samples_of(part)]
        for batch in itertools.islice(parts, count)
    ]


def run_of(source, forms):
    """A run whose legs between interruptions have so many ranks and workers, in turn."""

    def run(stops):
        found, state = [], None
        for (world, workers), stop in zip(itertools.cycle(forms), (*stops, None), strict=False):
            ranks = [
                Stream(source, rank=rank, world=world, workers=workers, **SAID)
                for rank in range(world)
            ]
            for rank in ranks if state else ():
                rank.restore(json.loads(state))
            found += global_batches(ranks, None if stop is None else stop - len(found))
            states = {json.dumps(rank.state()) for rank in ranks}
            assert stop is None or len(states) == 1
            state = states.pop()
            for rank in ranks:
                rank.close()
        return found

    return run


def test_it_goes_on_at_any_batch_on_another_number_of_ranks(source):
    total = EPOCHS * Stream(source, **SAID).batches_per_epoch
    run = run_of(source, [(1, 0), (2, 0), (4, 0)])
    assert_interrupted_equals_uninterrupted(run, once_and_twice(total))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_with_workers_give_the_same(source, world, workers):
    whole = run_of(source, [(1, 0)])(())
    run = run_of(source, [(world, workers), (1, 0), (2, 2)])
    assert run(()) == whole
    assert run((min(3, len(whole)),)) == whole
    assert run((1, 1, len(whole) - 1)) == whole


@pytest.mark.slow
def test_it_goes_on_at_any_batch_with_workers(source):
    total = EPOCHS * Stream(source, **SAID).batches_per_epoch
    run = run_of(source, [(1, 3), (2, 0)])
    assert_interrupted_equals_uninterrupted(run, [(place,) for place in range(total + 1)])


@given(
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(0, 99),
    st.data(),
)
def test_any_data_on_any_ranks(count, world, batch_size, window, seed, data):
    corpus = numbered_corpus({"train": count, "test": 1})
    said = {"batch_size": max(batch_size, world), "seed": seed, "window": window}
    source = CorpusSource(corpus, "train")
    ranks = [Stream(source, rank=rank, world=world, **said) for rank in range(world)]
    whole = [list(batch.sample_ids) for batch in Stream(source, **said)]
    stop = data.draw(st.integers(0, len(whole)))
    found = [[] for _ in whole]
    for rank in ranks:
        rank.restore({**rank.state(), "consumed": sum(map(len, whole[:stop]))})
        for place, batch in enumerate(rank, stop):
            there = (batch.lengths_B > 0).tolist()
            found[place] += itertools.compress(batch.sample_ids, there)
    assert found[stop:] == whole[stop:]
    assert sorted(itertools.chain(*whole)) == sorted(f"train-{n}" for n in range(count))
