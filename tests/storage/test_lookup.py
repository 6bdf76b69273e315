import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import IntegrityError
from storage.lookup import look_up
from tests.storage.refusal import refused


@given(
    st.sampled_from([np.uint8, np.uint16, np.uint32]),
    st.lists(st.integers(0, 255), max_size=20),
)
def test_it_is_indexing(dtype, codes):
    table = np.random.default_rng(0).normal(size=1 << 16).astype(np.float32)
    codes = np.array(codes, dtype).reshape(-1, 1)
    found = look_up(pa.array(table), codes)
    assert found.shape == codes.shape
    assert np.array_equal(found, table[codes])


def test_what_is_found_can_be_written_to():
    found = look_up(pa.array([1, 2, 3]), np.array([2, 0], np.uint8))
    found[0] = 9
    assert found.tolist() == [9, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_a_code_beyond_the_table_is_refused(dtype):
    with refused(IntegrityError, "a code of 3", "3 entries"):
        look_up(pa.array([1, 2, 3]), np.array([3], dtype))


def test_columns_of_an_array_are_looked_up():
    codes = np.arange(12, dtype=np.uint16).reshape(3, 4)[:, ::2]
    assert look_up(pa.array(np.arange(100)), codes).tolist() == codes.tolist()
