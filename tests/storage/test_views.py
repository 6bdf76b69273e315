"""Which row is which view of which sample, and its seed."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.options import DataOptions
from storage.rows import Ragged, take
from storage.views import ORIGINAL, Views

SAMPLES = {
    "sample_id": np.array(["a", "b/0", "b", "ä"], dtype=object),
    "input.x": np.arange(8.0).reshape(4, 2),
    "input.tokens": Ragged(np.arange(6), np.array([1, 2, 0, 3])),
    "label": np.array([3, 1, 2, 0]),
}


def test_only_the_training_split_of_augmented_data_has_views():
    data = {"name": "toy", "source": "t.csv", "inputs": "x", "splits": {"column": "split"}}
    plain = DataOptions.model_validate(data)
    assert Views.of(plain, "train") is None
    augmented = DataOptions.model_validate(
        data | {"views": 3, "augment": [{"kind": "flip"}], "augment_seed": 7}
    )
    assert Views.of(augmented, "train") == Views(3, 7, original_first=False)
    assert Views.of(augmented, "test") is None


def test_a_row_is_a_view_of_a_sample():
    rows = Views(3, 0, original_first=False).expand_all(SAMPLES)
    assert rows["sample_id"].tolist() == [name for name in SAMPLES["sample_id"] for _ in range(3)]
    assert rows["view"].tolist() == [0, 1, 2] * 4
    assert rows["input.tokens"].lengths_B.tolist() == [1, 1, 1, 2, 2, 2, 0, 0, 0, 3, 3, 3]
    assert rows["label"].tolist() == [3, 3, 3, 1, 1, 1, 2, 2, 2, 0, 0, 0]
    assert (rows["view"].dtype, rows["view_seed"].dtype) == (np.int32, np.int64)
    assert len(set(rows["view_seed"].tolist())) == 12


@given(st.integers(1, 5), st.data())
def test_any_range_of_rows_needs_its_samples_alone(count, data):
    views = Views(count, 0, original_first=False)
    start = data.draw(st.integers(0, 4 * count))
    stop = data.draw(st.integers(start, 4 * count))
    first, last = views.samples(start, stop)
    found = views.expand(take(SAMPLES, np.arange(first, last)), start, stop)
    whole = take(views.expand_all(SAMPLES), np.arange(start, stop))
    for name, column in whole.items():
        values = column.values_NW if isinstance(column, Ragged) else column
        other = found[name].values_NW if isinstance(column, Ragged) else found[name]
        assert np.array_equal(values, other)


def test_the_seed_is_that_of_the_format():
    rows = Views(2, 5, original_first=False).expand_all(SAMPLES)
    for name, view, seed in zip(rows["sample_id"], rows["view"], rows["view_seed"], strict=True):
        digest = hashlib.sha256(f"5/{name}/{view}".encode()).digest()
        assert struct.unpack("<q", digest[:8]) == (seed,)


@pytest.mark.parametrize("first", [True, False])
def test_the_first_view_may_be_the_original(first):
    rows = Views(2, 0, original_first=first).expand_all(SAMPLES)
    assert (rows["view_seed"][::2] == ORIGINAL).all() == first
    assert (rows["view_seed"][1::2] != ORIGINAL).all()
