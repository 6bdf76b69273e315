"""How logits and class ids are written: the number types of a shard, and their limits.

A logit is at most 0, for it is relative to the teacher's best. -inf (a masked class) survives
every codec, and no finite logit becomes -inf: what is below a codec's range is held at its end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from storage.options import Codec

Float32Array = NDArray[np.float32]

RELATIVE_ERROR = {Codec.FLOAT32: 2.0**-24, Codec.FLOAT16: 2.0**-11}
"""The largest relative error of a decoded logit within the codec's normal range."""
SMALLEST_NORMAL = {Codec.FLOAT32: 2.0**-126, Codec.FLOAT16: 2.0**-14}
"""Below this magnitude the error is absolute: `RELATIVE_ERROR` times this."""

_DTYPE: dict[Codec, np.dtype[np.floating]] = {
    Codec.FLOAT32: np.dtype(np.float32),
    Codec.FLOAT16: np.dtype(np.float16),
}


def logit_dtype(codec: Codec) -> np.dtype[np.floating]:
    """The type of a written logit."""
    return _DTYPE[codec]


def index_dtype(num_classes: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds the class ids 0 ... C - 1."""
    return np.min_scalar_type(num_classes - 1)


def encode_logit(logit: NDArray[np.floating], codec: Codec) -> NDArray[np.floating]:
    """Logits of any shape as they are written: -inf stays, finite values stay finite."""
    dtype = logit_dtype(codec)
    if np.can_cast(logit.dtype, dtype, "safe"):
        return logit.astype(dtype)
    lowest = np.finfo(dtype).min
    clipped = np.where(np.isneginf(logit), logit, np.maximum(logit, lowest))
    return clipped.astype(dtype)


def decode_logit(written: NDArray[np.floating]) -> Float32Array:
    """Written logits as float32."""
    return written.astype(np.float32, copy=False)


def round_trip(logit: NDArray[np.floating], codec: Codec) -> Float32Array:
    """Logits as a reader will see them."""
    return decode_logit(encode_logit(logit, codec))
