"""One digest of samples, whether they are at hand or read part by part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.row_digest import digest_of_parts, digest_of_rows
from storage.rows import Ragged, num_rows, part
from tests.storage.test_encoding import random_rows, specs

GOLDEN = "27585fd98cfb6c3a5a93f5d87050e90ff5c88acf3ffb280a13b580ff5f65d899"


def samples(**changes):
    """Three samples: a vector, a list, a label and an id each."""
    return {
        "sample_id": np.array(["a", "b", "\u00e9"], object),
        "input.x": np.arange(6, dtype=np.float32).reshape(3, 2),
        "input.t": Ragged(np.arange(4), np.array([1, 0, 3])),
        "label": np.array([2, 0, 1]),
    } | changes


def test_it_does_not_change_with_the_code():
    assert digest_of_rows(samples()) == GOLDEN


@given(specs(), st.integers(1, 9), st.integers(1, 10), st.integers(0, 99))
def test_parts_have_the_digest_of_the_whole(spec, count, size, seed):
    rows = random_rows(spec, count, seed)

    def read(name):
        for start in range(0, num_rows(rows), size):
            yield part(rows, start, min(start + size, count))[name]

    assert digest_of_parts(rows, count, read) == digest_of_rows(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_id": np.array(["a", "b", "c"], object)},
        {"input.x": np.arange(6, dtype=np.float64).reshape(3, 2)},
        {"input.x": np.zeros((3, 2), np.float32)},
        {"input.t": Ragged(np.arange(4), np.array([1, 1, 2]))},
        {"label": np.array([2, 0, 0])},
        {"bad": np.array(["", "too long", ""], object)},
    ],
)
def test_other_samples_have_another(changes):
    assert digest_of_rows(samples(**changes)) != GOLDEN


def test_neither_the_order_of_columns_nor_that_nothing_is_bad_matters():
    rows = samples(bad=np.array(["", "", ""], object))
    assert digest_of_rows(dict(reversed(rows.items()))) == GOLDEN


def test_where_a_block_ends_changes_the_digest():
    values = np.arange(4)
    digests = {
        digest_of_rows({"input.t": Ragged(values, np.array(lengths, np.int64))})
        for lengths in ([1, 3], [2, 2], [4])
    }
    assert len(digests) == 3
