"""From what is inside a teacher to the columns of a label set.

On the teacher's device features are pooled, projected and rounded, so that little leaves it; what
pads a sample is cut off once they are on the CPU.

Shape letters: B samples, N positions inside a model, L positions of a block, W width, S size,
H heads.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from storage.errors import ModelError
from storage.feature_options import StoredFeature
from storage.features import Pool
from storage.rows import Array, Column, Ragged
from storage.spec import InputSpec
from tasks.nn.batch import Batch
from tasks.nn.hashed import mix64, normal
from tasks.nn.observe import Found, real_positions
from tasks.nn.places import real_places
from tasks.nn.pooling import by_place, pooled

_DTYPES = {"float16": torch.float16, "float32": torch.float32}
_FIELD = "labels.features"


@dataclass(frozen=True)
class Kept:
    """One feature of the samples of a batch.

    Attributes:
        values: [B, ...] in the type that is stored; NaN where a number was not finite.
        length_B: where samples vary in length and the feature has other positions than they have,
            how many positions of each are there, int64; or None.
    """

    values: Tensor
    length_B: Tensor | None


def kept_features(
    module: nn.Module,
    batch: Batch,
    found: Found,
    wanted: Mapping[str, StoredFeature],
    inputs: Sequence[InputSpec],
) -> dict[str, Kept]:
    """What is kept of what was found inside a teacher, by column.

    Args:
        module: the teacher's model.
        batch: what it got.
        found: by the features' names, [B, ...] each.
        wanted: by column.
        inputs: the form of the batch's inputs.

    Raises:
        ModelError: a feature is no tensor of numbers for each sample, or not known by position.
    """
    ragged = [place for place, entry in enumerate(inputs) if entry.shape is None]
    length = batch.inputs[ragged[0]].shape[1] if ragged else None
    return {
        name: _kept(module, batch, found[feature.feature], feature, length)
        for name, feature in wanted.items()
    }


def _kept(
    module: nn.Module, batch: Batch, value: Tensor, feature: StoredFeature, length: int | None
) -> Kept:
    name = f"{_FIELD}: {feature.feature}"
    if value.dim() < 2 or len(value) != batch.num_samples or not value.is_floating_point():
        raise ModelError(
            f"{name}: expected floating numbers [B, ...] for {batch.num_samples} samples, got "
            f"{value.dtype} {list(value.shape)}"
        )
    value = value.float() if value.dtype != torch.float64 else value
    by_position = value.dim() == 3 and feature.pool is Pool.NONE
    length_B = None
    if length is not None and (by_position or feature.is_map):
        length_B = _lengths(module, batch, value.shape[-2], length, name, is_map=feature.is_map)
    elif length is not None and value.dim() > 3 and feature.pool is Pool.NONE:
        raise ModelError(
            f"{name}: it is {list(value.shape)} for samples of varying length; say pool: mean"
        )
    if feature.pool is not Pool.NONE:
        value = by_place(feature.feature, value)
        value = pooled(value, real_places(module, batch, value.shape[1]), feature.pool)
    if feature.size is not None:
        value = by_place(feature.feature, value) if value.dim() > 3 else value
        value = value @ projection(feature.feature, value.shape[-1], feature.size).to(value)
    return Kept(_rounded(value, _DTYPES[feature.dtype]), length_B)


def _lengths(
    module: nn.Module, batch: Batch, count: int, length: int, name: str, *, is_map: bool
) -> Tensor | None:
    """How many of `count` positions each sample has; None where they are those of the inputs."""
    if count == length:
        return None
    real_BN = None if is_map else real_positions(module, batch.inputs, count)
    if real_BN is None:
        raise ModelError(
            f"{name}: {count} positions for inputs of length {length}, and the model does not say "
            "which of them belong to which sample; say pool: mean, or use samples of one length"
        )
    return real_BN.sum(dim=1)


@lru_cache(maxsize=16)
def projection(name: str, width: int, size: int) -> Tensor:
    """The matrix [W, S] that brings a feature of `width` numbers to `size`: normal / sqrt(S).

    Its numbers are hashed from the feature's name and both widths, so they are the same in every
    label set and on every machine; lengths and angles are kept in expectation (Johnson and
    Lindenstrauss). See storage/FORMAT.md.
    """
    digest = hashlib.sha256(f"{name}/{width}/{size}".encode()).digest()
    key = mix64(torch.tensor([int.from_bytes(digest[:8], "little", signed=True)]))
    words = mix64(key + torch.arange(width * size))
    return normal(words).reshape(width, size) / math.sqrt(size)


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Values as they are stored: the largest of the type for larger ones, NaN for infinite ones."""
    most = torch.finfo(dtype).max
    return value.masked_fill(value.isinf(), math.nan).clamp(-most, most).to(dtype)


def feature_columns(
    kept: Mapping[str, Kept], lengths_B: NDArray[np.int64] | None
) -> tuple[dict[str, Column], NDArray[np.bool_]]:
    """Features as columns, and which samples have one that is not finite, bool [B].

    Args:
        kept: on the CPU.
        lengths_B: the length of each sample's inputs; None where no input varies.
    """
    columns: dict[str, Column] = {}
    bad: list[NDArray[np.bool_]] = []
    for name, entry in kept.items():
        values = entry.values.numpy()
        cut_B = lengths_B if entry.length_B is None else entry.length_B.numpy()
        if values.ndim == 2 or cut_B is None:
            columns[name] = values
            finite_B = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        elif values.ndim == 3:
            columns[name], finite_B = _cut(values, cut_B)
        else:
            columns[name], finite_B = _cut_maps(values, cut_B)
        bad.append(~finite_B)
    return columns, np.any(bad, axis=0) if bad else np.zeros(0, np.bool_)


def _cut(
    values: NDArray[np.floating], lengths_B: NDArray[np.int64]
) -> tuple[Ragged, NDArray[np.bool_]]:
    there_BN = np.arange(values.shape[1]) < lengths_B[:, None]
    finite_B = (np.isfinite(values).all(axis=2) | ~there_BN).all(axis=1)
    return Ragged(values[there_BN], lengths_B), finite_B


def _cut_maps(
    values: NDArray[np.floating], lengths_B: NDArray[np.int64]
) -> tuple[Array, NDArray[np.bool_]]:
    """Maps [B, H, N, N] with zeros where a sample has ended."""
    longest = int(lengths_B.max(initial=0))
    there_BN = np.arange(longest) < lengths_B[:, None]
    there_B1NN = (there_BN[:, :, None] & there_BN[:, None, :])[:, None]
    cut: Array = np.where(there_B1NN, values[:, :, :longest, :longest], values.dtype.type(0))
    finite_BE = np.isfinite(cut).reshape(len(cut), -1)
    return cut, np.asarray(finite_BE.all(axis=1))
