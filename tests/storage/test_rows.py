import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.rows import Ragged, concatenate, gather, num_rows, take, values_of

LISTS = st.lists(st.lists(st.integers(0, 99), max_size=4), min_size=1, max_size=6)


def ragged(lists: list[list[int]], width: int | None = None) -> Ragged:
    """Lists of numbers as a column; with a width, each number as often as that."""
    values = np.array([value for one in lists for value in one], np.int64)
    if width is not None:
        values = np.repeat(values[:, None], width, axis=1)
    return Ragged(values, np.array([len(one) for one in lists], np.int64))


def lists_of(column: Ragged) -> list[list[int]]:
    ends = np.cumsum(column.lengths_B)
    return [part.tolist() for part in np.split(column.values_NW, ends[:-1])]


@given(LISTS, st.data())
def test_take_is_indexing(lists, data):
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8))
    taken = ragged(lists).take(np.array(rows, np.int64))
    assert len(taken) == len(rows)
    assert not rows or lists_of(taken) == [lists[row] for row in rows]


@given(LISTS)
def test_take_keeps_the_values_of_a_position_together(lists):
    backwards = np.arange(len(lists))[::-1]
    taken = ragged(lists, width=2).take(backwards)
    assert lists_of(taken) == [[[value, value] for value in one] for one in reversed(lists)]


@given(LISTS, st.integers(0, 3))
def test_padded_fills_where_a_sample_has_ended(lists, more):
    length = max(map(len, lists)) + more
    block = ragged(lists).padded(length, -1)
    assert block.tolist() == [one + [-1] * (length - len(one)) for one in lists]


@given(LISTS)
def test_padded_fills_every_value_of_a_position(lists):
    length = max(map(len, lists)) + 1
    block = ragged(lists, width=3).padded(length, 7)
    assert block.shape == (len(lists), length, 3)
    assert (block[:, -1] == 7).all()


def test_padded_keeps_the_type():
    column = Ragged(np.array([True]), np.array([1, 0]))
    assert column.padded(2, False).tolist() == [[True, False], [False, False]]
    assert column.padded(2, False).dtype == np.bool_
    assert Ragged(np.zeros(1, np.float32), np.array([1])).padded(2, -np.inf).dtype == np.float32


def test_padding_to_less_than_the_longest_is_an_error():
    with pytest.raises(ValueError, match="cannot assign"):
        ragged([[1, 2], [3]]).padded(1, 0)


@given(LISTS, LISTS)
def test_concatenate_joins_plain_and_ragged_columns(first, second):
    parts = [{"a": np.arange(len(lists)), "b": ragged(lists)} for lists in (first, second)]
    joined = concatenate(parts)
    assert num_rows(joined) == len(first) + len(second)
    assert joined["a"].tolist() == [*range(len(first)), *range(len(second))]
    assert lists_of(joined["b"]) == first + second


@given(LISTS)
def test_concatenating_the_parts_gives_the_whole(lists):
    whole = {"a": np.arange(len(lists)), "b": ragged(lists)}
    parts = [take(whole, np.array([row])) for row in range(len(lists))]
    joined = concatenate(parts)
    assert joined["a"].tolist() == whole["a"].tolist()
    assert lists_of(joined["b"]) == lists


@given(LISTS, st.data())
def test_take_of_rows_takes_of_every_column(lists, data):
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), min_size=1, max_size=8))
    rows = {"a": np.arange(len(lists)), "m": np.eye(len(lists)), "b": ragged(lists)}
    taken = take(rows, np.array(chosen, np.int64))
    assert num_rows(taken) == len(chosen)
    assert taken["a"].tolist() == chosen
    assert taken["m"].argmax(axis=1).tolist() == chosen
    assert lists_of(taken["b"]) == [lists[row] for row in chosen]


@given(st.data(), st.lists(st.integers(0, 5), min_size=1, max_size=5), st.booleans())
def test_gathering_is_taking_of_all_parts_joined(data, sizes, uniform):
    parts, start = [], 0
    for size in sizes:
        numbers = np.arange(start, start + size)
        lengths = np.full(size, 2) if uniform else numbers % 3
        positions = np.arange(lengths.sum()) + 10 * start
        wide = int(data.draw(st.integers(2, 3)))
        parts.append(
            {
                "sample_id": np.array([f"s{n}" for n in numbers], dtype=object),
                "input.x": np.stack([numbers, -numbers], axis=1),
                "logit": np.tile(numbers[:, None], (1, wide)).astype(np.float32),
                "mask": Ragged(positions % 2 == 0, lengths),
                "rest": Ragged(np.stack([positions, -positions], axis=1), lengths),
            }
        )
        start += size
    chosen = np.array(data.draw(st.permutations(range(start))), np.int64)
    chosen = chosen[: data.draw(st.integers(0, start))]
    expected = take(concatenate(parts), chosen)
    pieces = list(gather(parts, chosen, data.draw(st.integers(1, 9))))
    found = concatenate(pieces) if pieces else expected
    for name, column in expected.items():
        assert np.array_equal(values_of(found[name]), values_of(column))
        assert values_of(found[name]).dtype == values_of(column).dtype
        if isinstance(column, Ragged):
            assert np.array_equal(found[name].lengths_B, column.lengths_B)
