"""Sounds as float32 waveforms of one channel and one rate, by soundfile and soxr.

Shape letters: N samples of the sound in its file, A channels, W samples of the waveform.
"""

from __future__ import annotations

import importlib
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.errors import BadSampleError, DataError, one_line
from storage.file_corpus import OpenFile
from storage.identity import Json
from storage.input_options import ATTENTION_MASK, WAVEFORM, AudioOptions
from storage.rows import Array
from storage.spec import InputSpec

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64")
_MARGIN_SECONDS = 0.1
"""Read beyond the end, so that resampling does not see the cut."""
_QUALITY = "HQ"


@dataclass(frozen=True)
class AudioDecoder:
    """A file's sound at one rate."""

    options: AudioOptions

    suffixes: tuple[str, ...] = SUFFIXES

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The waveform; with varying lengths an attention mask too."""
        if self.options.seconds is not None:
            shape = (self.options.num_samples,)
            return (InputSpec(name=WAVEFORM, dtype="float32", shape=shape),)
        return (
            InputSpec(name=WAVEFORM, dtype="float32", shape=None),
            InputSpec(name=ATTENTION_MASK, dtype="int64", shape=None),
        )

    @property
    def identity(self) -> Json:
        """What decides the numbers."""
        return self.options.identity()

    def load(self, file: OpenFile) -> bytes:
        """All of it."""
        return file.read(0, file.size_bytes)

    def decode(self, content: bytes) -> tuple[Array, ...]:
        """The waveform [W], and its attention mask where lengths vary.

        Raises:
            BadSampleError: it is no sound, damaged, too long, or not finite.
        """
        wave_W = decode_audio(content, self.options)
        if self.options.seconds is not None:
            return (wave_W,)
        return (wave_W, np.ones(len(wave_W), np.int64))


def decode_audio(content: bytes, options: AudioOptions) -> Array:
    """The sound that a file holds, as float32 [W].

    Raises:
        BadSampleError: it is no sound, damaged, too long, or not finite.
        DataError: the libraries that read sounds are not installed.
    """
    if not content:
        raise BadSampleError("the file is empty")
    _require_whole(content)
    soundfile = _library("soundfile")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            rate, most = sound.samplerate, _most_frames(sound, options)
            sound_NA = sound.read(most, dtype="float32", always_2d=True)
    except BadSampleError:
        raise
    except Exception as error:  # codecs raise whatever they like on damaged bytes
        raise BadSampleError(f"the sound cannot be decoded: {one_line(error)}") from error
    if len(sound_NA) < most:
        raise BadSampleError(f"the sound ends after {len(sound_NA):,} of {most:,} samples")
    wave_W = sound_NA.mean(axis=1, dtype=np.float32)
    if not np.isfinite(wave_W).all():
        raise BadSampleError("the sound holds samples that are not finite")
    if rate != options.rate:
        wave_W = _library("soxr").resample(wave_W, rate, options.rate, quality=_QUALITY)
    return _of_length(np.asarray(wave_W, np.float32), options)


def _most_frames(sound: Any, options: AudioOptions) -> int:
    """How many samples of the file are needed."""
    wanted = options.num_samples / options.rate
    if not sound.frames:
        raise BadSampleError("the sound has no samples")
    if options.too_long == "bad" and sound.frames / sound.samplerate > wanted:
        raise BadSampleError(
            f"the sound takes {sound.frames / sound.samplerate:.2f} s, {wanted:g} s are allowed"
        )
    return int(min(sound.frames, math.ceil((wanted + _MARGIN_SECONDS) * sound.samplerate)))


def _of_length(wave_W: Array, options: AudioOptions) -> Array:
    count = options.num_samples
    wave_W = wave_W[:count]
    if options.seconds is not None and len(wave_W) < count:
        return np.pad(wave_W, (0, count - len(wave_W)))
    if not len(wave_W):
        raise BadSampleError(f"the sound is shorter than a sample at {options.rate} Hz")
    return np.ascontiguousarray(wave_W)


def _require_whole(content: bytes) -> None:
    """Refuse a WAV file that was cut off, which its library reads without a word."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE" or content[36:40] != b"data":
        return
    there, said = len(content) - 44, int.from_bytes(content[40:44], "little")
    if there < said < 0x7FFFF000:  # larger ones are written by programs that stream
        raise BadSampleError(f"the sound ends after {max(there, 0):,} of {said:,} bytes")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise DataError(
            f"data.audio: {name} cannot be loaded ({one_line(error)}); "
            "run: pip install 'softlabel[audio]'"
        ) from error
