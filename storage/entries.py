"""The entries of positions in a shard: ids, logits and draw counts, in three layouts.

Whatever the layout, a position decodes to the same entries, the best first; the compact layout
gives the others by their codes instead of by their logits. `storage/FORMAT.md` specifies the bytes.

Shape letters: N positions of all samples, K the most entries of a position, E entries of all
positions one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.codebook import Codebook, Renumbering
from storage.codec import decode_logit, encode_logit, index_dtype, logit_dtype
from storage.errors import IntegrityError
from storage.options import AnyTemperature, Codec, Keep, Layout, Selection, numbers_among
from storage.rows import Array
from storage.spec import LabelSetSpec

INDEX = "index"
LOGIT = "logit"
COUNT = "count"

_ID_BITS = 8 * np.dtype(np.uint32).itemsize
_LEVEL_BITS = 8
_COUNT_BITS = 16


@dataclass(frozen=True)
class Entries:
    """The entries of N positions.

    Attributes:
        columns_NK: `index`, `logit` and, of a sampled set, `count`, each [N, K].
        kept_N: how many of the K are there; None where all are.
    """

    columns_NK: Mapping[str, Array]
    kept_N: NDArray[np.int64] | None


def names(selection: Selection) -> tuple[str, ...]:
    """The columns that the entries of a split have."""
    return (INDEX, LOGIT, COUNT) if selection.keep is Keep.SAMPLE else (INDEX, LOGIT)


def dtype_of(name: str, spec: LabelSetSpec, selection: Selection) -> np.dtype[Any]:
    """The number type in which a column of entries is written."""
    if name == INDEX:
        return index_dtype(spec.num_classes)
    if name == LOGIT:
        return logit_dtype(spec.codec)
    return np.min_scalar_type(selection.draws or 1)


def stored_names(name: str, spec: LabelSetSpec, selection: Selection) -> list[str]:
    """The columns of a shard that hold one column of entries."""
    if spec.layout is not Layout.COMPACT:
        return [name]
    count = dtype_of(name, spec, selection).itemsize
    if name == INDEX:
        count = -(-(spec.num_classes - 1).bit_length() // 8) or 1
    return [f"{name}.{plane}" for plane in range(count)]


def stored_dtype(name: str, spec: LabelSetSpec, selection: Selection) -> np.dtype[Any]:
    """The number type of the values in a stored column."""
    if spec.layout is Layout.COMPACT:
        return np.dtype(np.uint8)
    return dtype_of(name, spec, selection)


def encode(
    entries: Entries, spec: LabelSetSpec, selection: Selection
) -> tuple[dict[str, Array], Codebook]:
    """The stored columns, each [E], and what is needed to read them."""
    columns = dict(entries.columns_NK)
    written = encode_logit(columns[LOGIT], spec.codec, level_scale(spec.temperatures))
    columns[INDEX] = columns[INDEX].astype(index_dtype(spec.num_classes), copy=False)
    columns[LOGIT] = written.codes
    renumbering = None
    if spec.layout is Layout.COMPACT:
        present = _present(entries.kept_N, columns[INDEX].shape[1])
        kept = columns[INDEX] if present is None else columns[INDEX][present]
        renumbering = Renumbering.of(kept, spec.num_classes)
        columns[INDEX] = renumbering.codes(columns[INDEX])
        if spec.codec is Codec.UINT8:
            columns = _by_id(columns, present, selection)
        else:
            columns[LOGIT] = _rising_bits(columns[LOGIT])
    stored: dict[str, Array] = {}
    for name in names(selection):
        codes = columns[name].astype(dtype_of(name, spec, selection), copy=False)
        flat = _flat(codes, entries.kept_N)
        parts = stored_names(name, spec, selection)
        values = _planes(flat, len(parts)) if spec.layout is Layout.COMPACT else [flat]
        stored |= dict(zip(parts, values, strict=True))
    return stored, Codebook(written.levels, renumbering)


def decode(
    stored: Mapping[str, Array],
    wanted: Iterable[str],
    kept_N: NDArray[np.int64] | None,
    spec: LabelSetSpec,
    selection: Selection,
    codebook: Codebook,
) -> dict[str, Array]:
    """Columns of entries, each [N, K]: ids and counts int64, logits float32, padded with -inf.

    Args:
        stored: the values of the stored columns, each [E].
        wanted: which columns of entries.
        kept_N: entries of each position, where they vary.
        spec: the form of the set.
        selection: that of the split.
        codebook: of the shard.

    Raises:
        IntegrityError: the numbers are none that a writer makes.
    """
    found: dict[str, Array] = {}
    for name in wanted:
        parts = [stored[part] for part in stored_names(name, spec, selection)]
        codes = _joined(parts, dtype_of(name, spec, selection))
        codes_NK = _by_position(codes, kept_N, selection.k)
        if name == INDEX:
            found[name] = _decode_index(codes_NK, spec, codebook)
        elif name == LOGIT:
            found[name] = _decode_logits(codes_NK, kept_N, spec, selection, codebook)
        else:
            found[name] = codes_NK.astype(np.int64)
    return found


def level_scale(temperatures: tuple[AnyTemperature, ...]) -> float:
    """T over the lowest stored temperature: how much more a stored logit may weigh than at T.

    `std` has no say: what a set holds would depend on one odd position.
    """
    numbers = numbers_among(temperatures)
    return numbers[0] / min(numbers)


def _decode_index(codes_NK: Array, spec: LabelSetSpec, codebook: Codebook) -> Array:
    if spec.layout is not Layout.COMPACT:
        return codes_NK.astype(np.int64)
    if codebook.renumbering is None:
        raise IntegrityError("the ids of this shard lack their table")
    return codebook.renumbering.ids(codes_NK)


def _decode_logits(
    codes_NK: Array,
    kept_N: NDArray[np.int64] | None,
    spec: LabelSetSpec,
    selection: Selection,
    codebook: Codebook,
) -> Array:
    if spec.codec is Codec.UINT8 and codebook.levels is None:
        raise IntegrityError("the logits of this shard lack their levels")
    if spec.layout is Layout.COMPACT and spec.codec is not Codec.UINT8:
        codes_NK = _from_rising_bits(codes_NK, logit_dtype(spec.codec))
    elif spec.layout is Layout.COMPACT and selection.keep is not Keep.SAMPLE:
        codes_NK = codes_NK[:, :1] - codes_NK
        codes_NK[:, 0] = 0
    logit_NK = decode_logit(codes_NK, codebook.levels)
    present = _present(kept_N, codes_NK.shape[1])
    if present is not None:
        logit_NK = np.where(present, logit_NK, np.float32(-np.inf))
    return logit_NK


def _by_id(
    columns: Mapping[str, Array], present: NDArray[np.bool_] | None, selection: Selection
) -> dict[str, Array]:
    """The first entry of each position stays, the others go by rising code.

    Unless the set is sampled the first entry's level is 0, so its place holds the highest level of
    the position, and the others hold how far they are above that: small numbers, for most entries
    lie near the last one.
    """
    keys: Array = columns[INDEX].astype(np.uint64 if COUNT in columns else np.uint32)
    if COUNT in columns:
        keys = (keys << np.uint64(_COUNT_BITS)) | columns[COUNT].astype(np.uint64)
    elif int(columns[INDEX].max(initial=0)) >> (_ID_BITS - _LEVEL_BITS):
        keys = keys.astype(np.uint64)
    kind: Any = keys.dtype.type
    keys = (keys << kind(_LEVEL_BITS)) | columns[LOGIT]
    if present is not None:
        keys[~present] = np.iinfo(keys.dtype).max
    keys[:, 1:].sort(axis=1)
    level = (keys & kind(0xFF)).astype(np.uint8)
    rest = keys >> kind(_LEVEL_BITS)
    ordered: dict[str, Array] = {}
    if COUNT in columns:
        ordered[COUNT] = rest & np.uint64(0xFFFF)
        rest = rest >> np.uint64(_COUNT_BITS)
    ordered[INDEX] = rest
    if selection.keep is not Keep.SAMPLE:
        shown = level if present is None else np.where(present, level, np.uint8(0))
        highest = shown.max(axis=1)
        level = highest[:, None] - level
        level[:, 0] = highest
    return {**ordered, LOGIT: level}


def _rising_bits(logit_NK: Array) -> Array:
    """Differences of the bits of falling logits: small numbers, since the bits rise with them."""
    unsigned = _unsigned(logit_NK.dtype)
    bits: Array = logit_NK.view(unsigned) & unsigned.type(np.iinfo(unsigned).max >> 1)
    bits[:, 1:] -= bits[:, :-1].copy()
    return bits.view(logit_NK.dtype)


def _from_rising_bits(codes_NK: Array, dtype: np.dtype[Any]) -> Array:
    unsigned = _unsigned(dtype)
    bits = np.cumsum(codes_NK.view(unsigned), axis=1, dtype=unsigned)
    bits |= unsigned.type(1 << (8 * dtype.itemsize - 1))
    values: Array = bits.view(dtype)
    return values if dtype == np.float16 else values + dtype.type(0)  # -0 becomes 0


def _present(kept_N: NDArray[np.int64] | None, width: int) -> NDArray[np.bool_] | None:
    return None if kept_N is None else np.arange(width) < kept_N[:, None]


def _flat(codes_NK: Array, kept_N: NDArray[np.int64] | None) -> Array:
    present = _present(kept_N, codes_NK.shape[1])
    return np.ascontiguousarray(codes_NK).reshape(-1) if present is None else codes_NK[present]


def _by_position(codes: Array, kept_N: NDArray[np.int64] | None, k: int) -> Array:
    """Codes [E] as [N, K], 0 where a position has no entry."""
    if kept_N is None:
        return codes.reshape(-1, k)
    if int(kept_N.sum()) != len(codes):
        raise IntegrityError(f"{len(codes)} entries, the positions say {int(kept_N.sum())}")
    width = int(kept_N.max(initial=1))
    codes_NK = np.zeros((len(kept_N), width), codes.dtype)
    codes_NK[np.arange(width) < kept_N[:, None]] = codes
    return codes_NK


def _planes(codes: Array, count: int) -> list[NDArray[np.uint8]]:
    """The bytes of codes, the lowest first, each [E]."""
    little = np.ascontiguousarray(codes, codes.dtype.newbyteorder("<"))
    bytes_E = little.view(np.uint8).reshape(len(codes), codes.dtype.itemsize)
    return [np.ascontiguousarray(bytes_E[:, plane]) for plane in range(count)]


def _joined(planes: list[Array], dtype: np.dtype[Any]) -> Array:
    """Codes from their bytes, the lowest first."""
    if len(planes) == 1:
        return planes[0].view(dtype) if planes[0].dtype != dtype else planes[0]
    unsigned = _unsigned(dtype)
    codes: Array = np.multiply(planes[-1], unsigned.type(256), dtype=unsigned)
    for plane in reversed(planes[1:-1]):
        codes += plane
        codes *= unsigned.type(256)
    codes += planes[0]
    return codes.view(dtype)


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The unsigned type of a number type's size."""
    return np.dtype(f"u{dtype.itemsize}")
