import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import IntegrityError
from storage.pages import unpacked_bytes
from tests.storage.crafted import with_small_words, written
from tests.storage.refusal import refused


def said(content: bytes) -> list[int]:
    return list(unpacked_bytes(io.BytesIO(content), len(content)))


def footer_says(content: bytes) -> list[int]:
    metadata = pq.read_metadata(pa.BufferReader(content))
    return [metadata.row_group(place).total_byte_size for place in range(metadata.num_row_groups)]


def same(value: str, count: int) -> pa.Table:
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))
    return pa.table({"a": column})


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_each_column_of_each_row_group_is_at_least_what_it_holds(version, compression):
    columns = {"a": np.arange(1000), "b": [f"text {n}" for n in range(1000)], "c": [[1, 2]] * 1000}
    content = written(
        pa.table(columns),
        data_page_version=version,
        compression=compression,
        row_group_size=400,
        data_page_size=100,
    )
    found = said(content)
    assert len(found) == 9
    assert sum(found) >= 1000 * (8 + 9 + 16)
    assert sum(found) < 100_000


def test_statistics_of_any_length_are_passed_over():
    table = pa.table({"a": ["x" * 3000, "y" * 3000]})
    content = written(table, write_statistics=True, data_page_size=100)
    assert sum(said(content)) >= 6000


def test_no_rows_take_nothing():
    assert said(written(pa.table({"a": pa.array([], pa.int64())}))) == [0]


def test_what_the_footer_says_is_not_believed():
    content = written(pa.table({"a": ["x" * 5_000_000] * 4}), row_group_size=2)
    lying = with_small_words(content)
    assert footer_says(lying) == [1000, 1000]
    assert sum(said(lying)) >= 20_000_000


def test_a_long_text_that_is_named_often_counts_as_often():
    content = written(same("x" * 100_000, 20_000), use_dictionary=True, store_schema=False)
    assert len(content) < 2000
    assert sum(footer_says(content)) < 1_000_000
    assert sum(said(content)) > 2_000_000_000


def test_empty_lists_count():
    table = pa.table({"a": pa.array([[]] * 1_000_000, pa.list_(pa.int8()))})
    content = written(table)
    assert len(content) < 4000
    assert sum(footer_says(content)) < 100_000
    assert sum(said(content)) >= 4_000_000


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_encodings_in_which_few_bytes_can_be_any_length_are_refused(encoding):
    content = written(pa.table({"a": ["x" * 100] * 50}), column_encoding={"a": encoding})
    with refused(IntegrityError, "encoding", "no shard has"):
        said(content)


def test_a_column_outside_of_the_file_is_refused():
    content = written(pa.table({"a": np.random.default_rng(0).random(1000)}))
    footer = int.from_bytes(content[-8:-4], "little") + 8
    with refused(IntegrityError, "outside of the file"):
        said(content[:4] + content[-footer:])


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"\x18\xff\xff\xff\x7f", "no whole header"),
        (b"\xff" * 5, "type 15"),
        (b"\x00" * 5, "lacks the number"),
        (b"\x15\x0e\x15\x00\x15\x00\x00", "page of kind 7"),
        (b"\x15\x00\x15\x00\x15\x00\x00", "how many values"),
        (b"\x15\x00\x15\x01\x15\x00\x2c\x15\x02\x15\x00\x00\x00", "below 0"),
    ],
)
def test_a_page_without_a_header_is_refused(header, words):
    content = written(pa.table({"a": np.random.default_rng(0).integers(0, 1 << 60, 100)}))
    with refused(IntegrityError, words):
        said(content[:4] + header + content[4 + len(header) :])


@pytest.mark.parametrize(
    ("footer", "words"),
    [
        (b"\x15\x80", "cut short"),
        (b"\x49\x15\x02\x00", "not of the form"),
        (b"\x49\x1c\x19\x1c\x00\x00\x00", "where a column lies"),
    ],
)
def test_a_footer_that_says_nothing_of_use_is_refused(footer, words):
    with refused(IntegrityError, words):
        said(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
