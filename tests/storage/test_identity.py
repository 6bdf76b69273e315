from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.identity import (
    canonical_json,
    digest_of_bytes,
    digest_of_digests,
    fingerprint,
)

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    SCALARS | FLOATS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


class Colour(StrEnum):
    RED = "red"


class TestCanonicalJson:
    @given(st.dictionaries(st.text(max_size=3), JSON))
    def test_the_order_of_keys_does_not_matter(self, value):
        backwards = dict(reversed(value.items()))
        assert canonical_json(value) == canonical_json(backwards)

    def test_it_is_short_and_sorted(self):
        assert (
            canonical_json({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'.encode()
        )

    def test_values_of_the_program_are_said_as_plain_ones(self):
        value = {"e": Colour.RED, "t": (1, 2), "s": frozenset({"b", "a"}), "n": np.float32(0.5)}
        assert canonical_json(value) == b'{"e":"red","n":0.5,"s":["a","b"],"t":[1,2]}'

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("-inf")])
    def test_numbers_that_are_not_finite_are_refused(self, value):
        with pytest.raises(ValueError, match="JSON compliant"):
            canonical_json({"a": value})

    def test_a_path_is_refused(self):
        with pytest.raises(TypeError, match="a path is no part of an identity"):
            canonical_json({"a": Path("a")})

    def test_what_json_cannot_say_is_refused(self):
        with pytest.raises(TypeError, match="cannot say object"):
            canonical_json(object())


class TestFingerprint:
    def test_it_stays_the_same_over_versions(self):
        intent = {"name": "digits", "k": 3, "temperatures": [2.0, 1.0], "label": None, "ok": True}
        assert fingerprint(intent) == "c2cc505dd6711ddc"

    def test_it_is_16_hex_digits(self):
        assert len(fingerprint({})) == 16
        assert int(fingerprint({}), 16) >= 0

    @given(JSON, JSON)
    def test_other_values_have_other_fingerprints(self, a, b):
        assert (fingerprint(a) == fingerprint(b)) == (canonical_json(a) == canonical_json(b))


class TestDigestOfDigests:
    def test_it_depends_on_the_order(self):
        assert digest_of_digests(["a", "b"]) != digest_of_digests(["b", "a"])

    def test_it_depends_on_where_a_part_ends(self):
        assert digest_of_digests(["ab", "c"]) != digest_of_digests(["a", "bc"])

    def test_it_is_the_sha256_of_lines(self):
        assert digest_of_digests(["a", "b"]) == digest_of_bytes(b"a\nb")
