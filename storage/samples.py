"""From the user's columns to rows: ids, inputs and labels, each checked.

What is wrong is said with the field of the recipe, the column and the ids of samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from storage.errors import DataError
from storage.lists import as_blocks, require_same_lengths
from storage.meaning import Meaning
from storage.options import ATTENTION_MASK, DataOptions
from storage.preparation import Chunk
from storage.rows import Array, Column, Ragged, Rows, is_text, lengths_of, num_rows, take, values_of
from storage.schema import BAD, LABEL, NO_LABEL, SAMPLE_ID, input_column
from storage.token_labels import token_labels

FEATURES = "features"
"""The one input that several plain number columns become."""
_NAMED_IDS = 3


def prepare(chunk: Chunk, meaning: Meaning, first_row: int) -> dict[str, Column]:
    """A chunk's rows: ids, inputs and labels, checked.

    Args:
        chunk: columns as they were read, or prepared.
        meaning: what they stand for.
        first_row: how many rows of the source come before.

    Raises:
        DataError: an id, an input or a label is not as the recipe says.
    """
    options = meaning.options
    given = meaning.is_prepared and SAMPLE_ID in chunk
    ids = ids_of(chunk, SAMPLE_ID if given else options.id, meaning.split, first_row)
    rows: dict[str, Column] = {SAMPLE_ID: ids}
    bad = chunk.get(BAD) if meaning.is_prepared else None
    rows |= _inputs(chunk, _Good(np.asarray(rows[SAMPLE_ID]), bad), meaning)
    if options.task.has_many_positions:
        rows |= token_labels(chunk, rows, meaning)
    else:
        label = meaning.column(chunk, options.label, LABEL)
        if label is not None:
            rows[LABEL] = meaning.class_names.ids(label, options.label or LABEL)
    if bad is not None:
        rows[BAD] = np.asarray(bad)
    if LABEL in rows:
        _require_labels_in_range(rows, meaning)
    return rows


class _Good:
    """The samples of a chunk that are looked at: not those which could not be made."""

    def __init__(self, ids: Array, bad: Column | None) -> None:
        self._places = None if bad is None else np.flatnonzero(values_of(bad) == "")
        self.ids = ids if self._places is None else ids[self._places]

    def of(self, column: Column) -> Column:
        """Their part of a column."""
        return column if self._places is None else take({"": column}, self._places)[""]


def ids_of(chunk: Chunk, said: str | None, split: str, first_row: int) -> Array:
    """The ids of a chunk's samples: a column, or the numbers of the rows.

    Raises:
        DataError: the column holds lists.
    """
    if said is None:
        prefix = f"{split}-" if split else ""
        rows = range(first_row, first_row + num_rows(chunk))
        return np.array([f"{prefix}{row:09d}" for row in rows], dtype=object)
    column = chunk[said]
    if isinstance(column, Ragged) or column.ndim != 1:
        raise DataError(f"data.id: the column {said!r} holds lists, expected one id a sample")
    return np.array([str(value) for value in column], dtype=object)


def _inputs(chunk: Chunk, good: _Good, meaning: Meaning) -> dict[str, Column]:
    options = meaning.options
    chosen = {name: chunk[name] for name in meaning.inputs}
    for name, column in chosen.items():
        values = values_of(column)
        if is_text(values) or values.dtype.kind not in "biuf":
            raise DataError(
                f"data.inputs: the column {name!r} holds {values.dtype}, expected numbers; turn "
                "texts, images and sounds into numbers in a package.module:name target"
            )
        _require_finite(name, good.of(column), good.ids)
    if options.task.has_many_positions:
        blocks = {name: as_blocks(name, column) for name, column in chosen.items()}
        require_same_lengths(blocks)
        _require_tokens(good.of(blocks[meaning.inputs[0]]), good.ids)
        return _named_inputs(blocks, options)
    plain = [column for column in chosen.values() if _is_plain(column)]
    if len(plain) == len(chosen) and (len(chosen) > 1 or not options.shapes):
        stacked = np.stack([np.asarray(column, np.float32) for column in plain], axis=1)
        return _named_inputs({FEATURES: stacked}, options)
    shaped = {name: _shaped(name, column, options) for name, column in chosen.items()}
    require_same_lengths(shaped)
    for column in shaped.values():
        _require_tokens(good.of(column), good.ids)
    return _named_inputs(shaped, options)


def _named_inputs(chosen: Mapping[str, Column], options: DataOptions) -> dict[str, Column]:
    """Inputs by their columns' names, and the one that tells padding where it is asked for."""
    named = {input_column(name): column for name, column in chosen.items()}
    if options.attention_mask:
        lengths_B = lengths_of(named)
        if lengths_B is None:
            raise DataError(
                "data.attention_mask: no input of data.inputs holds lists of varying length, so "
                "there is no padding to tell; leave it out"
            )
        ones_N = np.ones(int(lengths_B.sum()), np.int64)
        named[input_column(ATTENTION_MASK)] = Ragged(ones_N, lengths_B)
    return named


def _is_plain(column: Column) -> bool:
    return isinstance(column, np.ndarray) and column.ndim == 1


def _shaped(name: str, column: Column, options: DataOptions) -> Column:
    shape = options.shapes.get(name)
    if isinstance(column, Ragged) and shape is not None:
        raise DataError(
            f"data.shapes: the samples of {name!r} have {column.lengths_B.min()} to "
            f"{column.lengths_B.max()} values, so they cannot all become {shape}"
        )
    listed = isinstance(column, np.ndarray) and column.ndim == 2 and shape is None
    if isinstance(column, Ragged) or (listed and options.attention_mask):
        column = as_blocks(name, column)
        values_N = column.values_NW
        values_N = values_N.astype(np.float32) if values_N.dtype.kind == "f" else values_N
        return Ragged(values_N, column.lengths_B)
    if shape is not None:
        if int(np.prod(column.shape[1:])) != int(np.prod(shape)):
            raise DataError(
                f"data.shapes: {name!r} has samples of shape {column.shape[1:]}, which cannot "
                f"become {shape}"
            )
        column = column.reshape(len(column), *shape)
    return column.astype(np.float32) if column.dtype.kind == "f" else column


def _require_finite(name: str, column: Column, ids: Array) -> None:
    values = values_of(column)
    if values.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32, copy=False))
    if finite.all():
        return
    bad = ~finite.reshape(len(values), -1).all(axis=1)
    if isinstance(column, Ragged):
        owner = np.repeat(np.arange(len(column)), column.lengths_B)
        places = np.unique(owner[bad])
    else:
        places = np.flatnonzero(bad)
    raise DataError(
        f"data.inputs: {name!r} is NaN, infinite or beyond float32 in {len(places)} samples: "
        f"{_named(ids, places)}; mend them or leave them out"
    )


def _require_tokens(tokens: Column, ids: Array) -> None:
    if not isinstance(tokens, Ragged):
        return
    empty = np.flatnonzero(tokens.lengths_B == 0)
    if len(empty):
        raise DataError(
            f"data.inputs: {len(empty)} samples have no tokens: {_named(ids, empty)}; drop them"
        )


def _named(ids: Array, places: NDArray[np.int64]) -> str:
    names = ", ".join(str(ids[place]) for place in places[:_NAMED_IDS])
    return names + (", ..." if len(places) > _NAMED_IDS else "")


def _require_labels_in_range(rows: Rows, meaning: Meaning) -> None:
    options = meaning.options
    good = _Good(np.asarray(rows[SAMPLE_ID]), rows.get(BAD))
    column = good.of(rows[LABEL])
    values = values_of(column)
    wanted = values[values != NO_LABEL] if isinstance(column, Ragged) else values
    highest = options.num_classes
    if len(wanted) and (wanted.min() < 0 or (highest is not None and wanted.max() >= highest)):
        wrong = wanted.min() if wanted.min() < 0 else wanted.max()
        limit = f"0 to {highest - 1}" if highest is not None else "0 or more"
        name = options.label or meaning.inputs[0]
        if options.padded and highest is not None and wrong >= highest:
            conflicting = np.unique(wanted[wanted >= highest])
            raise DataError(
                f"data.padded: {name!r} holds the ids {_listed(conflicting)}, which data.classes: "
                f"{highest} calls padding; say how many real ids there are"
            )
        raise DataError(f"data.label: {name!r} holds {wrong}, expected {limit}")


def _listed(ids: NDArray[np.int64], most: int = 5) -> str:
    return ", ".join(map(str, ids[:most].tolist())) + (", ..." if len(ids) > most else "")
