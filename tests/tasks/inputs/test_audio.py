import io

import numpy as np
import pytest

from storage.errors import BadSampleError
from storage.input_options import AudioOptions
from tasks.inputs.audio import AudioDecoder, decode_audio
from tests.storage.refusal import refused

soundfile = pytest.importorskip("soundfile")
FIXED = AudioOptions(rate=8000, seconds=0.5)
VARYING = AudioOptions(rate=8000, max_seconds=0.5)


def tone(seconds: float, rate: int = 8000, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f4")


def encoded(wave: np.ndarray, rate: int = 8000, kind: str = "WAV", subtype: str | None = None):
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("seconds", [0.1, 0.5, 0.9])
def test_a_sound_is_cut_or_filled_up_to_its_length(seconds):
    wave = tone(seconds)
    found = decode_audio(encoded(wave, subtype="FLOAT"), FIXED)
    assert found.dtype == np.float32
    assert found.shape == (4000,)
    count = min(len(wave), 4000)
    assert np.array_equal(found[:count], wave[:count])
    assert (found[count:] == 0).all()


@pytest.mark.parametrize("seconds", [0.1, 0.9])
def test_or_keeps_its_own(seconds):
    wave, mask = AudioDecoder(VARYING).decode(encoded(tone(seconds)))
    assert len(wave) == len(mask) == min(round(seconds * 8000), 4000)
    assert (mask == 1).all()


def test_channels_are_averaged():
    both = np.stack([tone(0.5), np.zeros(4000, np.float32)], axis=1)
    found = decode_audio(encoded(both, subtype="FLOAT"), FIXED)
    assert np.allclose(found, tone(0.5) / 2, atol=1e-7)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_another_rate_is_resampled(kind):
    found = decode_audio(encoded(tone(0.6, 22050), 22050, kind), FIXED)
    assert found.shape == (4000,)
    middle = slice(200, 3800)
    assert np.abs(found[middle] - tone(0.5)[middle]).max() < 0.02


def test_a_sound_that_is_too_long_is_cut_or_bad():
    strict = AudioOptions(rate=8000, max_seconds=0.5, too_long="bad")
    assert len(decode_audio(encoded(tone(0.5)), strict)) == 4000
    with refused(BadSampleError, "0.60 s", "0.5 s are allowed"):
        decode_audio(encoded(tone(0.6)), strict)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"RIFF hello", ["cannot be decoded"]),
        (encoded(tone(0.4))[:2000], ["ends after 1,956 of 6,400 bytes"]),
        (encoded(tone(0.4), kind="FLAC")[:800], ["the sound"]),
        (encoded(tone(0.0)), ["no samples"]),
        (encoded(np.full(100, np.nan, "f4"), subtype="FLOAT"), ["not finite"]),
    ],
)
def test_a_damaged_sound_is_a_bad_sample(content, words):
    with refused(BadSampleError, *words):
        decode_audio(content, FIXED)


def test_what_it_makes_is_known_without_decoding():
    assert [spec.shape for spec in AudioDecoder(FIXED).inputs] == [(4000,)]
    assert [spec.name for spec in AudioDecoder(VARYING).inputs] == ["waveform", "attention_mask"]
    assert [spec.shape for spec in AudioDecoder(VARYING).inputs] == [None, None]
