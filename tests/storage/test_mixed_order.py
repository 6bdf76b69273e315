import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import RecipeError
from storage.mixed_order import MixedOrder, mixing_pattern
from storage.order import Order
from storage.parts import Part

SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any).map(tuple)
SETS = st.lists(st.tuples(SIZES, st.integers(1, 4)), min_size=1, max_size=3)


def mixed(sets, seed=0, window=2, shuffle=True):
    orders = [
        Order(f"d{number}", sizes, seed, window, shuffle) for number, (sizes, _) in enumerate(sets)
    ]
    return MixedOrder(tuple(orders), mixing_pattern([weight for _, weight in sets]))


def places(windows, sizes):
    """The stored places of rows, counted through all sets."""
    starts = np.cumsum((0, *sizes))
    found = []
    for window in windows:
        assert window.sizes == tuple(sizes[group] for group in window.groups)
        assert len(window.rows)
        joined = np.concatenate(
            [np.arange(starts[group], starts[group + 1]) for group in window.groups]
        )
        found += joined[window.rows].tolist()
    return found


@given(SETS, st.integers(0, 3), st.integers(1, 3))
def test_each_set_goes_through_its_own_order_again_and_again(sets, seed, window):
    an_order = mixed(sets, seed, window)
    sizes = [size for group_sizes, _ in sets for size in group_sizes]
    ends = np.cumsum([sum(group_sizes) for group_sizes, _ in sets])
    found = list(
        itertools.chain.from_iterable(places(an_order.windows(n), sizes) for n in range(3))
    )
    assert len(found) == 3 * an_order.num_samples
    set_of = np.searchsorted(ends, found, side="right")
    for number, order in enumerate(an_order.orders):
        first = ends[number] - order.num_samples
        own = [place - first for place in found if first <= place < ends[number]]
        passes = -(-len(own) // order.num_samples)
        expected = [
            place
            for epoch in range(passes)
            for place in places(order.windows(epoch), order.group_sizes)
        ]
        assert own == expected[: len(own)]
    # An epoch ends when the first set has been gone through, and begins with the pattern.
    each = set_of.reshape(3, -1)
    assert (each == each[0]).all()
    assert (each[0] == 0).sum() == an_order.orders[0].num_samples
    assert each[0][-1] == 0


@given(SETS, st.integers(1, 3), st.integers(0, 2))
def test_skipping_n_is_dropping_the_first_n(sets, window, epoch):
    an_order = mixed(sets, window=window)
    sizes = [size for group_sizes, _ in sets for size in group_sizes]
    whole = places(an_order.windows(epoch), sizes)
    for skip in range(len(whole) + 1):
        assert places(an_order.windows(epoch, skip), sizes) == whole[skip:]


@given(SETS, st.integers(1, 9), st.integers(1, 3))
def test_it_is_divided_among_ranks_as_any_order_is(sets, batch_size, world):
    an_order = mixed(sets)
    sizes = [size for group_sizes, _ in sets for size in group_sizes]
    count, batch_size = an_order.num_samples, max(batch_size, world)
    whole = places(an_order.windows(0), sizes)
    parts = [Part(batch_size, rank, world) for rank in range(world)]
    mine = [places(part.windows(an_order.windows(0), count), sizes) for part in parts]
    for size in parts[0].batches(count):
        for part, rows in zip(parts, mine, strict=True):
            first, last = part.bounds(size)
            assert [rows.pop(0) for _ in range(last - first)] == whole[first:last]
        whole = whole[size:]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_a_pattern_is_exact_and_even(weights):
    pattern = mixing_pattern(weights)
    counts = np.bincount(pattern)
    assert [count * sum(weights) for count in counts] == [w * len(pattern) for w in weights]
    for length in range(len(pattern) + 1):
        some = np.bincount(pattern[:length], minlength=len(weights))
        for count, weight in zip(some, weights, strict=True):
            assert abs(count - length * weight / sum(weights)) < len(weights)


def test_patterns():
    assert mixing_pattern([1, 1]) == (0, 1)
    assert len(mixing_pattern([0.7, 0.3])) == 10
    assert mixing_pattern([2, 4]) == mixing_pattern([0.5, 1.0])
    thirds = mixing_pattern([1.0, 2**0.5])
    assert len(thirds) == 1000
    assert thirds.count(0) == round(1000 / (1 + 2**0.5))
    with pytest.raises(RecipeError, match=r"at least a thousandth of all, got 1, 0\.0001"):
        mixing_pattern([1.0, 0.0001])


def test_what_goes_on_in_the_next_window_is_said():
    an_order = mixed([((4, 4, 4, 4), 1), ((8, 8), 1)], window=1)
    windows = list(an_order.windows(0))
    for window, following in itertools.pairwise(windows):
        assert set(window.groups) & set(following.groups) == window.again
    assert not windows[-1].again
