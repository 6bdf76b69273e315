"""What the numbers of one shard stand for: levels, renumbered class ids, the shapes of features.

A codebook lies in the shard's own Parquet metadata, so that a shard can be read by itself.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.codec import NUM_LEVELS, Float32Array, index_dtype
from storage.errors import IntegrityError
from storage.identity import canonical_json
from storage.lookup import look_up
from storage.rows import Array

LEVELS_KEY: Final = b"softlabel.levels"
IDS_KEY: Final = b"softlabel.ids"
FEATURES_KEY: Final = b"softlabel.features"
Shape = tuple[int | None, ...]
"""Of a feature of one sample; None stands for the sample's own length."""
_LONGEST = 1 << 31
_LEAST_OCCURRENCES = 16
"""A rarer id costs more in the table than its shorter code saves."""


@dataclass(frozen=True)
class Renumbering:
    """Class ids numbered by how often they occur in a shard: frequent ones get small codes.

    Attributes:
        frequent: the ids of the first codes, most frequent first; all other ids follow in order.
        num_classes: C.
    """

    frequent: NDArray[np.int64]
    num_classes: int

    @classmethod
    def of(cls, index: Array, num_classes: int) -> Renumbering:
        """The renumbering of the ids of one shard, of any shape."""
        counts = np.bincount(index.reshape(-1), minlength=num_classes)
        order = np.argsort(-counts, kind="stable")
        frequent = order[: int((counts >= _LEAST_OCCURRENCES).sum())]
        return cls(frequent.astype(np.int64), num_classes)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The type of a code."""
        return index_dtype(self.num_classes)

    def codes(self, index: Array) -> Array:
        """The codes of ids."""
        codes = np.empty(self.num_classes, self.dtype)
        codes[self._ids] = np.arange(self.num_classes, dtype=self.dtype)
        return look_up(pa.array(codes), index.astype(self.dtype, copy=False))

    def ids(self, codes: Array) -> NDArray[np.int64]:
        """The ids of codes.

        Raises:
            IntegrityError: there is no such code.
        """
        return look_up(self._table, codes)

    @cached_property
    def _ids(self) -> NDArray[np.int64]:
        others = np.ones(self.num_classes, np.bool_)
        others[self.frequent] = False
        return np.concatenate([self.frequent, np.flatnonzero(others)])

    @cached_property
    def _table(self) -> pa.Array:
        # As long as a code of one or two bytes can say, so that none has to be checked.
        length = 1 << (8 * min(self.dtype.itemsize, 2))
        table = np.zeros(max(length, self.num_classes), np.int64)
        table[: self.num_classes] = self._ids
        return pa.array(table if self.dtype.itemsize < 4 else table[: self.num_classes])


@dataclass(frozen=True)
class Codebook:
    """What is needed to read the numbers of a shard.

    Attributes:
        levels: of `uint8` logits, float32 [255]; or None.
        renumbering: of the compact layout's ids; or None.
        features: the shape that a sample's features have, by name.
    """

    levels: Float32Array | None = None
    renumbering: Renumbering | None = None
    features: Mapping[str, Shape] = field(default_factory=dict)

    def to_metadata(self) -> dict[bytes, bytes]:
        """The entries of the Parquet file's key-value metadata."""
        metadata = {}
        if self.levels is not None:
            # The fewest digits that name the float32.
            shortest = [float(str(level)) for level in self.levels]
            metadata[LEVELS_KEY] = json.dumps(shortest, separators=(",", ":")).encode()
        if self.renumbering is not None:
            little = self.renumbering.frequent.astype(self.renumbering.dtype.newbyteorder("<"))
            metadata[IDS_KEY] = base64.b64encode(little.tobytes())
        if self.features:
            metadata[FEATURES_KEY] = canonical_json(
                {name: list(shape) for name, shape in self.features.items()}
            )
        return metadata

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes], num_classes: int) -> Codebook:
        """The codebook of a file.

        Raises:
            IntegrityError: it says something that no writer says.
        """
        levels = metadata.get(LEVELS_KEY)
        ids = metadata.get(IDS_KEY)
        return cls(
            None if levels is None else _parse_levels(levels),
            None if ids is None else Renumbering(_parse_ids(ids, num_classes), num_classes),
            _parse_features(metadata.get(FEATURES_KEY, b"{}")),
        )


def _parse_levels(text: bytes) -> Float32Array:
    try:
        levels = np.array(json.loads(text), np.float32)
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{LEVELS_KEY.decode()} is no list of numbers") from error
    if levels.shape != (NUM_LEVELS,) or not np.isfinite(levels).all() or (levels > 0).any():
        raise IntegrityError(
            f"{LEVELS_KEY.decode()}: expected {NUM_LEVELS} finite numbers of at most 0"
        )
    return levels


def _parse_features(text: bytes) -> dict[str, Shape]:
    """Shapes whose axes are numbers above 0; None is the first axis, or the last two of three."""
    fault = IntegrityError(f"{FEATURES_KEY.decode()} is no table of shapes")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise fault from error
    if not isinstance(found, dict):
        raise fault
    for shape in found.values():
        if not isinstance(shape, list) or not shape:
            raise fault
        varying = [place for place, axis in enumerate(shape) if axis is None]
        if varying not in ([], [0], [1, 2]) or (len(varying) == 2 and len(shape) != 3):
            raise fault
        if not all(type(axis) is int and 0 < axis < _LONGEST for axis in shape if axis is not None):
            raise fault
    return {name: tuple(shape) for name, shape in found.items()}


def _parse_ids(text: bytes, num_classes: int) -> NDArray[np.int64]:
    dtype = index_dtype(num_classes).newbyteorder("<")
    try:
        ids = np.frombuffer(base64.b64decode(text, validate=True), dtype).astype(np.int64)
    except (ValueError, binascii.Error) as error:
        raise IntegrityError(f"{IDS_KEY.decode()} is no list of ids") from error
    if len(ids) > num_classes or (len(ids) and ids.max() >= num_classes):
        raise IntegrityError(f"{IDS_KEY.decode()}: an id of {ids.max()} of {num_classes} classes")
    if len(np.unique(ids)) != len(ids):
        raise IntegrityError(f"{IDS_KEY.decode()}: an id is there twice")
    return ids
