"""How logits and class ids are written: the number types of a shard, and their limits.

A logit is at most 0, for it is relative to the best class. -inf (a masked class) survives every
codec, and no finite logit becomes -inf: what is below a codec's range is held at its end. 0 stays
0, and no other logit becomes 0 by `uint8`, so that the best class stays the best.

`uint8` writes the number of a level. Levels lie close near 0, where the probability is, and up to
one logit apart far below: with p proportional to exp(z), steps that grow like exp(-z / 4) cost
about the same at temperatures 1 and 2. What a level stands for is the mean of its logits in one
shard, so the table of levels belongs to the shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.lookup import look_up
from storage.options import Codec

Float32Array = NDArray[np.float32]

RELATIVE_ERROR = {Codec.FLOAT32: 2.0**-24, Codec.FLOAT16: 2.0**-11}
"""The largest relative error of a decoded logit within the codec's normal range."""
SMALLEST_NORMAL = {Codec.FLOAT32: 2.0**-126, Codec.FLOAT16: 2.0**-14}
"""Below this magnitude the error is absolute: `RELATIVE_ERROR` times this."""

MASKED_CODE = 255
"""The `uint8` code of -inf."""
NUM_LEVELS = 255
"""The levels of `uint8`: the codes 0 to 254."""
_FINEST_STEP = 1 / 20
_COARSEST_STEP = 1.0
_GROWTH = 1 / 4
_LOWEST_HALF = 0xFC00
"""The bits of the half float -inf; those of NaN are above."""
_KEY_SHIFT = 13
"""Bits of a float32 that do not matter to its level: 10 of the mantissa are looked at."""

_DTYPE: dict[Codec, np.dtype[Any]] = {
    Codec.FLOAT32: np.dtype(np.float32),
    Codec.FLOAT16: np.dtype(np.float16),
    Codec.UINT8: np.dtype(np.uint8),
}


@dataclass(frozen=True)
class Written:
    """Logits as they are written.

    Attributes:
        codes: of the codec's type.
        levels: for `uint8` what the codes 0 to 254 stand for, float32, 0 for those that do not
            occur; else None.
    """

    codes: NDArray[Any]
    levels: Float32Array | None


def logit_dtype(codec: Codec) -> np.dtype[Any]:
    """The type of a written logit."""
    return _DTYPE[codec]


@cache
def index_dtype(num_classes: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds the class ids 0 ... C - 1."""
    return np.min_scalar_type(num_classes - 1)


def encode_logit(logit: NDArray[np.floating], codec: Codec, scale: float = 1.0) -> Written:
    """Logits of any shape as they are written: -inf stays, finite values stay finite.

    Args:
        logit: (z - m) / T, at most 0.
        codec: how they are written.
        scale: T over the lowest temperature at which they will be used; `uint8` has finer levels
            where it is large.
    """
    if codec is Codec.UINT8:
        return _encode_levels(logit, scale)
    dtype = logit_dtype(codec)
    logit = logit + logit.dtype.type(0)  # -0 becomes 0
    if np.can_cast(logit.dtype, dtype, "safe"):
        return Written(logit.astype(dtype, copy=False), None)
    lowest = np.finfo(dtype).min
    with np.errstate(over="ignore"):
        written = logit.astype(dtype)
    overflown = np.isneginf(written) & ~np.isneginf(logit)
    if overflown.any():
        written[overflown] = lowest
    return Written(written, None)


def decode_logit(codes: NDArray[Any], levels: Float32Array | None = None) -> Float32Array:
    """Written logits as a new float32 array; `levels` are those of the shard, for `uint8`."""
    if codes.dtype == np.uint8:
        assert levels is not None
        table = np.full(MASKED_CODE + 1, -np.inf, np.float32)
        table[:NUM_LEVELS] = levels
        return look_up(pa.array(table), codes)
    if codes.dtype == np.float16:
        return _from_halves(codes.view(np.uint16))
    return codes.astype(np.float32)


def round_trip(logit: NDArray[np.floating], codec: Codec, scale: float = 1.0) -> Float32Array:
    """Logits as a reader will see them, if they are a whole shard."""
    written = encode_logit(logit, codec, scale)
    return decode_logit(written.codes, written.levels)


def _encode_levels(logit: NDArray[np.floating], scale: float) -> Written:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(logit, dtype=np.float32)
        keys = (values * np.float32(-scale)).view(np.uint32) >> np.uint32(_KEY_SHIFT)
    codes = _level_of_key().take(keys & np.uint32((1 << (31 - _KEY_SHIFT)) - 1), mode="clip")
    overflown = (codes == MASKED_CODE) & ~np.isneginf(logit)
    if overflown.any():
        codes[overflown] = NUM_LEVELS - 1
        values = np.where(overflown, np.float32(-_centres()[-1] / scale), values)
    counts = np.bincount(codes.reshape(-1), minlength=MASKED_CODE + 1)[:NUM_LEVELS]
    finite = np.where(codes == MASKED_CODE, np.float32(0), values)
    sums = np.bincount(codes.reshape(-1), finite.reshape(-1), MASKED_CODE + 1)[:NUM_LEVELS]
    levels = np.where(counts > 0, sums / np.maximum(counts, 1), 0.0).astype(np.float32)
    levels[0] = 0
    return Written(codes, levels)


@cache
def _centres() -> NDArray[np.float64]:
    """Where the levels lie, in logits below the best; the first is 0."""
    centres = [0.0]
    while len(centres) < NUM_LEVELS:
        step = min(_FINEST_STEP * float(np.exp(_GROWTH * centres[-1])), _COARSEST_STEP)
        centres.append(centres[-1] + step)
    return np.array(centres)


@cache
def _level_of_key() -> NDArray[np.uint8]:
    """The level of each float32 by its upper bits, the sign left out."""
    keys = np.arange(1 << (31 - _KEY_SHIFT), dtype=np.uint32)
    with np.errstate(over="ignore", invalid="ignore"):
        middle = ((keys << np.uint32(_KEY_SHIFT)) | np.uint32(1 << (_KEY_SHIFT - 1))).view(
            np.float32
        )
        bounds = (_centres()[1:] + _centres()[:-1]) / 2
        levels = np.searchsorted(bounds, middle.astype(np.float64), side="right")
    levels[1:] = np.maximum(levels[1:], 1)  # only 0 itself is the best class's level
    levels[keys << np.uint32(_KEY_SHIFT) >= np.uint32(0x7F800000)] = MASKED_CODE
    return levels.astype(np.uint8)


def _from_halves(bits: NDArray[np.uint16]) -> Float32Array:
    """Half floats of at most 0 from their bits: faster than numpy's own conversion.

    The bits of exponent and fraction, moved to where float32 has them, are the number times 2^-112,
    subnormal ones included.
    """
    if bits.size == 0 or int(bits.max()) >= _LOWEST_HALF:
        return look_up(_halves(), bits)
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(13)
    wide &= np.uint32(0x0FFFE000)
    values = wide.view(np.float32)
    values *= np.float32(-(2.0**112))
    return values


@cache
def _halves() -> pa.Array:
    """The float32 of each float16, by its bits; that of -0 is 0."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves[halves == 0] = 0
    return pa.array(halves)
