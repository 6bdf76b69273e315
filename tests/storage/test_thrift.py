import random

import pytest

from storage.errors import IntegrityError
from storage.thrift import CompactReader
from tests.storage.crafted import varint
from tests.storage.refusal import refused


def read(*parts: bytes) -> dict:
    return CompactReader(b"".join(parts)).struct()


def test_numbers_by_their_fields():
    assert read(b"\x15", varint(2 * 7), b"\x26", varint(2 * 300), b"\x00") == {1: 7, 3: 300}


def test_negative_numbers_and_truth():
    assert read(b"\x15\x01\x11\x12\x00") == {1: -1, 2: 1, 3: 0}


def test_a_field_far_away_says_its_own_number():
    assert read(b"\x05", varint(2 * 40), varint(2 * 5), b"\x00") == {40: 5}


def test_structs_and_lists():
    assert read(b"\x1c\x15\x02\x00\x00") == {1: {1: 1}}
    assert read(b"\x19\x25\x02\x04\x00") == {1: [1, 2]}
    assert read(b"\x19\xf5", varint(16), b"\x02" * 16, b"\x00") == {1: [1] * 16}
    assert read(b"\x19\x21\x01\x02\x15\x06\x00") == {1: [0, 0], 2: 3}


def test_texts_and_fractions_are_passed_over():
    assert read(b"\x18\x03abc\x17", bytes(8), b"\x13\x09\x15\x02\x00") == {1: 0, 2: 0, 3: 0, 4: 1}


def test_the_place_after_it_is_known():
    reader = CompactReader(b"\x15\x02\x00rest")
    reader.struct()
    assert reader.place == 3


@pytest.mark.parametrize("content", [b"", b"\x15", b"\x15\x80", b"\x18\x7fabc", b"\x15\x02"])
def test_too_few_bytes_are_an_index_error(content):
    with pytest.raises(IndexError):
        read(content)


def test_what_parquet_does_not_hold_is_refused():
    with refused(IntegrityError, "type 11"):
        read(b"\x1b\x00")
    with refused(IntegrityError, "does not end"):
        read(b"\x15", b"\x80" * 11)
    with refused(IntegrityError, "type 12"):
        read(b"\x1c" * 1000)


def test_any_bytes_end_in_an_answer_or_one_of_two_errors():
    draw = random.Random(0)
    for _ in range(3000):
        try:
            assert isinstance(read(draw.randbytes(40)), dict)
        except (IndexError, IntegrityError):
            continue
