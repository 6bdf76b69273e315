import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.codec import (
    MASKED_CODE,
    NUM_LEVELS,
    RELATIVE_ERROR,
    SMALLEST_NORMAL,
    decode_logit,
    encode_logit,
    index_dtype,
    logit_dtype,
    round_trip,
)
from storage.options import Codec

CODECS = st.sampled_from(Codec)
FLOATS = st.sampled_from([Codec.FLOAT32, Codec.FLOAT16])
EXTREMES = [-np.inf, -0.0, 0.0, -1e-45, -6e-8, -65503.9, -65504.0, -65519.0, -65520.0, -3e38]


@st.composite
def logits(draw: st.DrawFn) -> np.ndarray:
    """Logits at most 0, of either type, from the smallest to the largest and -inf."""
    width = draw(st.sampled_from([32, 64]))
    extremes = [np.float32(value).item() for value in EXTREMES] + [-1e300] * (width == 64)
    number = st.floats(max_value=0, allow_nan=False, width=width) | st.sampled_from(extremes)
    return np.array(draw(st.lists(number, max_size=20)), f"float{width}")


@given(logits(), CODECS)
def test_minus_infinity_survives_and_finite_stays_finite(logit, codec):
    decoded = round_trip(logit, codec)
    assert (np.isneginf(decoded) == np.isneginf(logit)).all()
    assert not np.isnan(decoded).any()


@given(logits(), FLOATS)
def test_the_error_is_within_its_bound(logit, codec):
    lowest = np.finfo(logit_dtype(codec)).min
    kept = logit[logit >= lowest].astype(np.float64)
    error = np.abs(round_trip(kept, codec) - kept)
    assert (error <= RELATIVE_ERROR[codec] * np.maximum(-kept, SMALLEST_NORMAL[codec])).all()


@given(logits(), FLOATS)
def test_what_is_below_the_range_is_held_at_its_end(logit, codec):
    lowest = np.finfo(logit_dtype(codec)).min
    below = logit[np.isfinite(logit) & (logit < lowest)]
    assert (round_trip(below, codec) == np.float32(lowest)).all()


@given(logits(), CODECS)
def test_the_order_is_preserved(logit, codec):
    ordered = np.sort(logit)
    decoded = round_trip(ordered, codec)
    assert (decoded[:-1] <= decoded[1:]).all()
    assert (decoded <= 0).all()


@given(logits(), FLOATS)
def test_a_second_round_trip_changes_nothing(logit, codec):
    once = round_trip(logit, codec)
    assert np.array_equal(round_trip(once, codec), once)


@given(logits())
def test_float32_is_exact_for_float32(logit):
    logit = logit[logit >= np.finfo(np.float32).min].astype(np.float32)
    assert np.array_equal(round_trip(logit, Codec.FLOAT32), logit)


@pytest.mark.parametrize("codec", Codec)
def test_a_logit_is_written_in_the_codecs_type_and_read_as_float32(codec):
    logit = np.zeros((2, 3))
    written = encode_logit(logit, codec)
    decoded = decode_logit(written.codes, written.levels)
    assert written.codes.dtype == logit_dtype(codec) == np.dtype(codec.value)
    assert (written.levels is not None) == (codec is Codec.UINT8)
    assert decoded.dtype == np.float32
    assert written.codes.shape == decoded.shape == (2, 3)


def test_the_best_class_stays_the_best():
    for codec in Codec:
        assert round_trip(np.array([0.0, -1.0, -np.inf]), codec).tolist() == [0.0, -1.0, -np.inf]


def test_every_half_float_is_read_as_numpy_reads_it():
    halves = np.arange(0x8000, 0xFC01, dtype=np.uint16).view(np.float16)
    assert np.array_equal(decode_logit(halves), halves.astype(np.float32))
    assert np.array_equal(decode_logit(halves[:-1]), halves[:-1].astype(np.float32))
    assert not np.signbit(decode_logit(np.array([0.0, -0.0], np.float16)) + 0.0).any()


class TestLevels:
    @given(logits(), st.sampled_from([0.25, 1.0, 4.0]))
    def test_only_the_best_class_is_at_zero(self, logit, scale):
        logit = np.maximum(logit, np.finfo(np.float32).min).astype(np.float32)
        decoded = round_trip(logit, Codec.UINT8, scale)
        smallest = np.finfo(np.float32).tiny / scale
        assert (decoded[logit == 0] == 0).all()
        assert (decoded[logit < -smallest] < 0).all()

    @given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=50))
    def test_the_error_is_at_most_a_step(self, below):
        logit = -np.array(below, np.float32)
        step = np.minimum(0.05 * np.exp(-logit.astype(np.float64) / 4), 1.0)
        # A level's value is the mean of its logits, which lie within a step of each other.
        assert (np.abs(round_trip(logit, Codec.UINT8) - logit) <= step * 1.02 + 1e-6).all()

    def test_levels_are_finer_where_a_lower_temperature_needs_it(self):
        logit = -np.linspace(0.01, 0.5, 1000, dtype=np.float32)
        plain, fine = (np.abs(round_trip(logit, Codec.UINT8, s) - logit).max() for s in (1, 4))
        assert fine < plain / 2

    def test_a_level_stands_for_the_mean_of_its_logits(self):
        written = encode_logit(np.array([-0.0501, -0.0499, -2.0], np.float32), Codec.UINT8)
        assert written.codes[0] == written.codes[1] != written.codes[2]
        assert np.isclose(written.levels[written.codes[0]], -0.05)
        assert len(written.levels) == NUM_LEVELS
        assert np.count_nonzero(written.levels) == 2

    def test_a_masked_class_has_a_code_of_its_own(self):
        written = encode_logit(np.array([-np.inf, -3e38, 0.0]), Codec.UINT8)
        assert written.codes.tolist() == [MASKED_CODE, NUM_LEVELS - 1, 0]
        assert np.isfinite(written.levels).all()


@pytest.mark.parametrize(
    ("num_classes", "dtype"),
    [
        (2, np.uint8),
        (256, np.uint8),
        (257, np.uint16),
        (65536, np.uint16),
        (65537, np.uint32),
        (300_000, np.uint32),
    ],
)
def test_class_ids_take_the_smallest_type_that_holds_them(num_classes, dtype):
    assert index_dtype(num_classes) == dtype
    assert np.iinfo(index_dtype(num_classes)).max >= num_classes - 1
