"""Columns of stored features, in memory and in a shard.

A feature of a sample has a shape without B, in which None stands for the sample's own length: `[W]`
of a sample, `[None, W]` of positions, `[H, None, None]` for an attention map, or any fixed shape.
In memory it is an array [B, ...], maps of varying length padded with zeros, or a `Ragged` of
[N, W]. In a shard it is the numbers of each sample one after the other: a list, or in the layouts
`fast` and `compact` their bytes. The shapes lie in the shard's codebook.

Shape letters: B samples, N positions, W width, H heads, E numbers of all samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.codebook import Shape
from storage.errors import IntegrityError
from storage.rows import Array, Column, Ragged, values_of

Lengths = NDArray[np.int64]


def shape_of(column: Column, lengths_B: Lengths | None) -> Shape:
    """The shape of a sample's feature.

    Args:
        column: as it is in memory.
        lengths_B: the length of each sample's inputs; None where no input varies.
    """
    if isinstance(column, Ragged):
        return (None, *column.values_NW.shape[1:])
    if _is_padded(column, lengths_B):
        return (column.shape[1], None, None)
    return tuple(column.shape[1:])


def numbers_of_samples(column: Column, lengths_B: Lengths | None) -> Lengths:
    """How many numbers each sample has; of maps, what pads them left out."""
    if isinstance(column, Ragged):
        return column.lengths_B * math.prod(column.values_NW.shape[1:])
    if lengths_B is not None and _is_padded(column, lengths_B):
        counts_B: Lengths = lengths_B**2 * column.shape[1]
        return counts_B
    return np.full(len(column), math.prod(column.shape[1:]), np.int64)


def flat_feature(column: Column, lengths_B: Lengths | None) -> Array:
    """All numbers [E], sample after sample."""
    if lengths_B is None or not _is_padded(column, lengths_B):
        return np.ascontiguousarray(values_of(column)).reshape(-1)
    return np.concatenate([entry.reshape(-1) for entry in _cut(values_of(column), lengths_B)])


def shaped_feature(name: str, flat: Array, counts_B: Lengths, shape: Shape) -> Column:
    """A feature as it is in memory.

    Raises:
        IntegrityError: the numbers of a sample are not those of such a shape.
    """
    fixed = math.prod(axis for axis in shape if axis is not None)
    varies = shape.count(None)
    if (counts_B % fixed).any() or (not varies and (counts_B != fixed).any()):
        raise IntegrityError(f"the column {name!r} holds lists of another length than {shape}")
    if not varies:
        return flat.reshape(-1, *shape)
    if varies == 1:
        return Ragged(flat.reshape(-1, *shape[1:]), counts_B // fixed)
    lengths_B = np.sqrt(counts_B // fixed).astype(np.int64)
    if (lengths_B**2 * fixed != counts_B).any():
        raise IntegrityError(f"the column {name!r} holds maps that are not square")
    longest = int(lengths_B.max(initial=0))
    padded = np.zeros((len(counts_B), fixed, longest, longest), flat.dtype)
    start = 0
    for entry in _cut(padded, lengths_B):
        entry[...] = flat[start : start + entry.size].reshape(entry.shape)
        start += entry.size
    return padded


def feature_type(dtype: np.dtype[Any], *, as_list: bool) -> pa.DataType:
    """The Arrow type of a feature's column."""
    if not as_list:
        return pa.binary()
    return pa.list_(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False))


def _is_padded(column: Column, lengths_B: Lengths | None) -> bool:
    """Whether it holds maps that are as long as each sample's inputs."""
    return not isinstance(column, Ragged) and column.ndim == 4 and lengths_B is not None


def _cut(map_BHNN: Array, lengths_B: Lengths) -> Iterator[Array]:
    """Each sample's map, what pads it left out; they share memory."""
    for map_HNN, length in zip(map_BHNN, lengths_B, strict=True):
        yield map_HNN[:, :length, :length]
