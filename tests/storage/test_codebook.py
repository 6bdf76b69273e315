import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.codebook import IDS_KEY, LEVELS_KEY, Codebook, Renumbering
from storage.codec import NUM_LEVELS
from storage.errors import IntegrityError
from tests.storage.refusal import refused


@given(st.sampled_from([2, 256, 257, 65_536, 65_537, 300_000]), st.integers(0, 2**32 - 1))
def test_ids_come_back(num_classes, seed):
    rng = np.random.default_rng(seed)
    index = (num_classes * rng.random((50, 4)) ** 8).astype(np.int64)
    renumbering = Renumbering.of(index, num_classes)
    codes = renumbering.codes(index)
    assert codes.dtype == renumbering.dtype
    assert (renumbering.ids(codes) == index).all()


def test_frequent_ids_get_small_codes_and_the_others_keep_their_order():
    index = np.array([7] * 40 + [3] * 20 + [9, 1])
    renumbering = Renumbering.of(index, 10)
    assert renumbering.frequent.tolist() == [7, 3]
    assert renumbering.codes(np.arange(10)).tolist() == [2, 3, 4, 1, 5, 6, 7, 0, 8, 9]


def test_equal_counts_go_by_id():
    assert Renumbering.of(np.array([5, 2] * 20), 6).frequent.tolist() == [2, 5]


def test_a_codebook_comes_back_from_metadata():
    levels = -np.linspace(0, 9, NUM_LEVELS, dtype=np.float32)
    book = Codebook(levels, Renumbering(np.array([400, 3], np.int64), 500))
    found = Codebook.from_metadata(book.to_metadata(), 500)
    assert np.array_equal(found.levels, levels)
    assert found.renumbering.frequent.tolist() == [400, 3]
    assert Codebook.from_metadata({}, 500) == Codebook()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (LEVELS_KEY, b"[0]"),
        (LEVELS_KEY, b"{"),
        (LEVELS_KEY, b'"x"'),
        (LEVELS_KEY, json.dumps([float("nan")] * NUM_LEVELS).encode()),
        (LEVELS_KEY, json.dumps([1.0] * NUM_LEVELS).encode()),
        (IDS_KEY, b"!!"),
        (IDS_KEY, base64.b64encode(b"x")),
        (IDS_KEY, base64.b64encode(np.array([500], "<u2").tobytes())),
        (IDS_KEY, base64.b64encode(np.array([3, 3], "<u2").tobytes())),
    ],
)
def test_what_no_writer_says_is_refused(key, value):
    with refused(IntegrityError, key.decode()):
        Codebook.from_metadata({key: value}, 500)
