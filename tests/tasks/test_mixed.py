"""Several label sets as one: exact shares, one digest, and clear refusals."""

import itertools

import numpy as np
import pytest
import torch

from storage.errors import RecipeError
from storage.options import LabelOptions
from tasks.mixed import Mixed, MixedSource, training_source
from tasks.sources import LabelSource
from tasks.stream import Stream
from tests.tasks.test_stream import counting_ids, ids_of, joined, streams
from tests.tasks.toy import TableTeacher, block_corpus, label_set, numbered_corpus, random_table

SAID = {
    "k": 2,
    "temperature": 2.0,
    "batch_size": 4,
    "positions_per_shard": 9,
    "positions_per_row_group": 4,
}
OWN, OTHER = 23, 7


def numbered_set(store, name, size, changes=None, num_classes=5, **said):
    corpus = numbered_corpus({name: size, "train": size}, num_classes, **said)
    teacher = TableTeacher(random_table(2 * size, num_classes))
    options = LabelOptions(**{**SAID, **(changes or {})})
    return label_set(store / name, corpus, teacher, options)


@pytest.fixture
def own(store):
    labels = numbered_set(store, "own", OWN)
    yield labels
    labels.close()


@pytest.fixture
def other(store):
    labels = numbered_set(
        store, "other", OTHER, {"k": 3, "temperatures": (2.0, 4.0, 1.0), "layout": "fast"}
    )
    yield labels
    labels.close()


@pytest.fixture
def source(own, other):
    sources = [LabelSource(own, "own"), LabelSource(other, "other")]
    return MixedSource(sources, [2, 1])


def test_each_batch_has_its_share_of_each_set(source):
    batches = ids_of(Stream(source, 6, seed=1, window=2), 2)
    for batch in batches:
        if len(batch) == 6:
            assert sum(id.startswith("own") for id in batch) == 4
    # An epoch is one pass through the own set; the other one goes round and round.
    own = [id for id in joined(batches) if id.startswith("own")]
    assert sorted(own[:OWN]) == sorted(own[OWN:]) == sorted(f"own-{n}" for n in range(OWN))
    others = [id for id in joined(batches) if id.startswith("other")]
    for start in range(0, len(others) - OTHER + 1, OTHER):
        assert len({*others[start : start + OTHER]}) == OTHER


def test_rows_are_those_of_their_set_at_the_temperatures_of_both(own, other):
    source = MixedSource([LabelSource(own, "train"), LabelSource(other, "train")], [2, 1])
    assert source.temperatures == source.spec.temperatures == (2.0, 1.0)
    tables = [torch.tensor(random_table(2 * size)) for size in (OWN, OTHER)]
    for batch in Stream(source, 5):
        assert batch.temperatures == (2.0, 1.0)
        for place, number in enumerate(batch.inputs[0][:, 0].tolist()):
            which = number < OWN  # the training samples of the other set have lower numbers
            z_C = tables[which][number]
            index = batch.index_PK[place][~torch.isneginf(batch.logit_PK[place])]
            assert len(index) == 2 + which
            left = torch.ones(5, dtype=torch.bool)
            left[index] = False
            for column, at in enumerate((2.0, 1.0)):
                rest = torch.logsumexp((z_C[left] - z_C.max()) / at, 0)
                torch.testing.assert_close(batch.rest_PT[place, column], rest, rtol=1e-4, atol=1e-4)


def test_another_weight_or_order_of_sets_is_another_source(own, other):
    one, two = LabelSource(own, "own"), LabelSource(other, "other")
    digests = {
        MixedSource(*said).digest
        for said in (
            ([one, two], [2, 1]),
            ([one, two], [1, 2]),
            ([two, one], [2, 1]),
            ([one, LabelSource(other, "train")], [2, 1]),
        )
    }
    assert len(digests) == 4
    assert MixedSource([one, two], [4, 2]).digest in digests


@pytest.mark.parametrize("world", [1, 3])
def test_resumed_at_any_batch_on_any_number_of_ranks_it_goes_on(source, world):
    said = {"batch_size": 5, "seed": 7, "window": 1}
    stream = Stream(source, **said)
    whole = ids_of(Stream(source, **said), 2)
    seen = 0
    while stream.epoch < 2:
        for _ in stream:
            seen += 1
            ranks = streams(source, world, **said)
            for rank in ranks:
                rank.restore(stream.state())
            found = [list(map(counting_ids, itertools.islice(rank, 2))) for rank in ranks]
            batches = [joined(parts) for parts in zip(*found, strict=True)]
            assert batches == whole[seen : seen + len(batches)]
    assert seen == len(whole)


def test_row_groups_that_go_on_in_the_next_window_are_read_once(own, other, monkeypatch):
    read = []
    plain = LabelSource.read
    monkeypatch.setattr(
        LabelSource,
        "read",
        lambda self, group: read.append((self.split, group)) or plain(self, group),
    )
    source = MixedSource([LabelSource(own, "own"), LabelSource(other, "other")], [9, 1])
    list(Stream(source, 4, window=2))
    assert len(read) == len(set(read))


@pytest.mark.slow
def test_processes_read_a_mix_alike(source):
    expected = ids_of(Stream(source, 5, seed=1, window=1), 2)
    stream = Stream(source, 5, seed=1, window=1, workers=2)
    assert ids_of(stream, 2) == expected
    stream.close()


def test_one_label_set_alone_is_not_mixed(own):
    assert isinstance(training_source(own, (), "students.small.mix"), LabelSource)


def test_the_shares_of_a_recipe_leave_the_rest_to_the_own_set(own, other):
    mixed = Mixed(other, 0.25)
    source = training_source(own, (mixed,), "students.small.mix")
    ids = joined(ids_of(Stream(source, 4)))
    # The training samples of the other set have lower numbers.
    others = [int(name.removeprefix("train-")) < OWN for name in ids]
    assert np.reshape(others[:28], (-1, 4)).sum(axis=1).tolist() == [1] * 7
    assert mixed.identity() == {
        "fingerprint": other.manifest.fingerprint,
        "digest": other.digest,
        "share": 0.25,
    }
    assert mixed.described()["url"] == other.folder.url


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"num_classes": 4}, "expected the number of classes 5 as in .*, got 4 in "),
        ({"label": False}, "expected hard labels there as in .*, got not there in "),
        (
            {"changes": {"temperature": 1.0}},
            "expected the temperature of the logits 2 .*, got 1 in",
        ),
        (
            {"changes": {"keep": "sample", "draws": 9}},
            "expected to be kept the best classes .*, got draws at temperature 1",
        ),
    ],
)
def test_sets_that_do_not_go_together_are_refused(store, own, made, said):
    other = numbered_set(store, "different", 6, **made)
    with pytest.raises(RecipeError, match=f"students.small.mix: {said}"):
        training_source(own, [Mixed(other, 0.5)], "students.small.mix")
    other.close()


def test_other_inputs_and_another_task_are_a_line_each(store, own):
    corpus = block_corpus([[1, 2], [3]], [[True, True], [True]])
    other = label_set(store / "blocks", corpus, TableTeacher(random_table(7)), LabelOptions(**SAID))
    with pytest.raises(RecipeError) as raised:
        training_source(own, [Mixed(other, 0.5)], "mix")
    lines = str(raised.value).splitlines()
    assert any("expected the task classification" in line for line in lines)
    assert any("expected the inputs row of (1,), integers" in line for line in lines)
    other.close()


def test_as_many_weights_as_sets(own):
    with pytest.raises(RecipeError, match="expected 1 weights, got 2"):
        MixedSource([LabelSource(own, "own")], [1, 2])
