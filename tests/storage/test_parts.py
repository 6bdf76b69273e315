import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import RecipeError
from storage.order import Order
from storage.parts import Part

SIZES = st.lists(st.integers(0, 9), max_size=8).map(tuple)


def places(windows, group_sizes):
    """The stored places of the rows of windows, in their order."""
    starts = np.cumsum((0, *group_sizes))
    found = []
    for window in windows:
        assert window.sizes == tuple(group_sizes[group] for group in window.groups)
        joined = np.concatenate(
            [np.arange(starts[group], starts[group + 1]) for group in window.groups]
        )
        found += joined[window.rows].tolist()
    return found


@given(st.data(), SIZES, st.integers(1, 4), st.integers(1, 12), st.integers(1, 5))
def test_the_parts_of_a_batch_side_by_side_are_the_batch(data, sizes, window, batch_size, world):
    batch_size = max(batch_size, world)
    order = Order("d", sizes, 1, window)
    consumed = data.draw(st.integers(0, order.num_samples))
    left = order.num_samples - consumed
    whole = places(order.windows(2, consumed), sizes)
    parts = [Part(batch_size, rank, world) for rank in range(world)]
    mine = [places(part.windows(order.windows(2, consumed), left), sizes) for part in parts]
    for size in parts[0].batches(left):
        found = []
        for part, rows in zip(parts, mine, strict=True):
            first, last = part.bounds(size)
            assert last > first
            taken, rows[:] = rows[: last - first], rows[last - first :]
            assert taken == whole[first:last]
            found += [] if part.is_stand_in(size) else taken
        assert found == whole[:size]
        whole = whole[size:]
    assert not whole
    assert not any(mine)


@given(st.integers(0, 40), st.integers(1, 9))
def test_batches_cover_all_samples(num_samples, batch_size):
    sizes = list(Part(batch_size).batches(num_samples))
    assert sum(sizes) == num_samples
    assert set(sizes[:-1]) <= {batch_size}
    assert all(0 < size <= batch_size for size in sizes)


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(RecipeError, match="2 samples cannot be divided among 3 processes"):
        Part(2, 0, 3)
    with pytest.raises(RecipeError, match="a rank from 0 to 2, got -1"):
        Part(5, -1, 3)


def test_row_groups_without_own_samples_are_left_out():
    order = Order("d", (4, 4, 4, 4), 0, window=4, shuffle=False)
    (window,) = Part(16, 1, 4).windows(order.windows(0), 16)
    assert window.groups == (1,)
    assert window.sizes == (4,)
    assert window.rows.tolist() == [0, 1, 2, 3]
