"""Batches of a shard: each sample once, longest first, few lengths, little padding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.batches import padded_length, plan_batches, real_share

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1, 70))
def test_each_sample_is_in_one_batch_that_holds_it(lengths, batch_size):
    lengths_B = np.array(lengths)
    batches = plan_batches(len(lengths), lengths_B, batch_size)
    places = np.concatenate([batch.places for batch in batches])
    assert sorted(places.tolist()) == list(range(len(lengths)))
    assert all(len(batch.places) == batch_size for batch in batches[:-1])
    for batch in batches:
        assert lengths_B[batch.places].max() <= batch.length <= lengths_B.max()
    assert [batch.length for batch in batches] == sorted(
        (batch.length for batch in batches), reverse=True
    )


def test_samples_of_one_shape_keep_their_order():
    batches = plan_batches(7, None, 3)
    assert [batch.places.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert {batch.length for batch in batches} == {None}


def test_samples_of_one_length_keep_their_order():
    batches = plan_batches(4, np.array([5, 9, 5, 9]), 2)
    assert [batch.places.tolist() for batch in batches] == [[1, 3], [0, 2]]


@given(st.integers(1, 1 << 20))
def test_less_than_a_sixteenth_is_added(length):
    padded = padded_length(length)
    assert length <= padded < length * 17 / 16


def test_there_are_few_lengths():
    for power in range(4, 14):
        found = {padded_length(length) for length in range(1 << power, 2 << power)}
        assert len(found) <= 17


def test_of_mixed_lengths_nine_in_ten_tokens_are_real():
    lengths_B = np.random.default_rng(0).integers(10, 400, 4096)
    assert real_share(plan_batches(4096, lengths_B, 32), lengths_B) > 0.95
    naive = sum(32 * lengths_B[start : start + 32].max() for start in range(0, len(lengths_B), 32))
    assert lengths_B.sum() / naive < 0.6
