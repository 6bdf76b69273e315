"""From the user's columns to rows: ids, inputs and labels, each checked.

What is wrong is said with the field of the recipe, the column and the ids of samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from storage.errors import DataError
from storage.options import ATTENTION_MASK, DataOptions, Task
from storage.rows import Array, Column, Ragged, Rows, is_text, lengths_of, values_of
from storage.schema import LABEL, MASK, NO_LABEL, SAMPLE_ID, input_column

FEATURES = "features"
"""The one input that several plain number columns become."""
_NAMED_IDS = 3


def prepare(columns: Mapping[str, Column], options: DataOptions, split: str) -> dict[str, Column]:
    """The rows of one source: ids, inputs, and labels, checked.

    Args:
        columns: as they were read.
        options: what the recipe says of them.
        split: the split that this source is alone, or nothing.

    Raises:
        DataError: an id, an input or a label is not as the recipe says.
    """
    rows: dict[str, Column] = {SAMPLE_ID: _ids(columns, options, split)}
    rows |= _inputs(columns, rows[SAMPLE_ID], options)
    if options.task.has_many_positions:
        rows |= _token_labels(columns, rows, options)
    elif options.label is not None:
        rows[LABEL] = _class_ids(columns[options.label], options)
    if LABEL in rows:
        _require_labels_in_range(rows, options)
    return rows


def next_token_labels(tokens: Ragged, mask: Ragged) -> tuple[Ragged, Ragged]:
    """The hard labels of a causal language model, and which positions count.

    Position t predicts token t + 1, so the label of t is token t + 1; it counts where both do,
    and the last position of a block never does. This is the only place that shifts.
    """
    ends = np.cumsum(tokens.lengths_B)[tokens.lengths_B > 0] - 1
    label = np.roll(tokens.values_NW.astype(np.int64), -1)
    counts = np.roll(mask.values_NW, -1) & mask.values_NW
    counts[ends] = False
    label[~counts] = NO_LABEL
    return Ragged(label, tokens.lengths_B), Ragged(counts, tokens.lengths_B)


def _ids(columns: Mapping[str, Column], options: DataOptions, split: str) -> Array:
    if options.id is None:
        prefix = f"{split}-" if split else ""
        count = len(columns[options.inputs[0]])
        return np.array([f"{prefix}{row:09d}" for row in range(count)], dtype=object)
    column = columns[options.id]
    if isinstance(column, Ragged) or column.ndim != 1:
        raise DataError(f"data.id: the column {options.id!r} holds lists, expected one id a sample")
    return np.array([str(value) for value in column], dtype=object)


def _inputs(columns: Mapping[str, Column], ids: Column, options: DataOptions) -> dict[str, Column]:
    chosen = {name: columns[name] for name in options.inputs}
    for name, column in chosen.items():
        values = values_of(column)
        if is_text(values) or values.dtype.kind not in "biuf":
            raise DataError(
                f"data.inputs: the column {name!r} holds {values.dtype}, expected numbers; turn "
                "texts, images and sounds into numbers in a package.module:name target"
            )
        _require_finite(name, column, np.asarray(ids))
    if options.task.has_many_positions:
        blocks = {name: _as_blocks(name, column) for name, column in chosen.items()}
        _require_same_lengths(blocks)
        _require_tokens(blocks[options.inputs[0]], np.asarray(ids))
        return _named_inputs(blocks, options)
    plain = [column for column in chosen.values() if _is_plain(column)]
    if len(plain) == len(chosen) and (len(chosen) > 1 or not options.shapes):
        stacked = np.stack([np.asarray(column, np.float32) for column in plain], axis=1)
        return _named_inputs({FEATURES: stacked}, options)
    shaped = {name: _shaped(name, column, options) for name, column in chosen.items()}
    _require_same_lengths(shaped)
    for column in shaped.values():
        if isinstance(column, Ragged):
            _require_tokens(column, np.asarray(ids))
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


def as_ragged(column: Column) -> Ragged:
    """Lists of one length, [B, L], as lists whose length could vary."""
    if isinstance(column, Ragged):
        return column
    return Ragged(column.reshape(-1), np.full(len(column), column.shape[1], np.int64))


def _as_blocks(name: str, column: Column) -> Ragged:
    if values_of(column).ndim != (1 if isinstance(column, Ragged) else 2):
        raise DataError(f"data: the column {name!r} must hold one list of numbers a sample")
    return as_ragged(column)


def _shaped(name: str, column: Column, options: DataOptions) -> Column:
    shape = options.shapes.get(name)
    if isinstance(column, Ragged) and shape is not None:
        raise DataError(
            f"data.shapes: the samples of {name!r} have {column.lengths_B.min()} to "
            f"{column.lengths_B.max()} values, so they cannot all become {shape}"
        )
    listed = isinstance(column, np.ndarray) and column.ndim == 2 and shape is None
    if isinstance(column, Ragged) or (listed and options.attention_mask):
        column = _as_blocks(name, column)
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


def _require_tokens(tokens: Ragged, ids: Array) -> None:
    empty = np.flatnonzero(tokens.lengths_B == 0)
    if len(empty):
        raise DataError(
            f"data.inputs: {len(empty)} samples have no tokens: {_named(ids, empty)}; drop them"
        )


def _named(ids: Array, places: NDArray[np.int64]) -> str:
    names = ", ".join(str(ids[place]) for place in places[:_NAMED_IDS])
    return names + (", ..." if len(places) > _NAMED_IDS else "")


def _class_ids(column: Column, options: DataOptions) -> Array:
    if isinstance(column, Ragged) or column.ndim != 1:
        raise DataError(f"data.label: {options.label!r} holds lists, expected one class a sample")
    if not is_text(column):
        return _whole(column, str(options.label))
    if options.class_names is None:
        raise DataError(
            f"data.label: {options.label!r} holds text; name the classes in their order in "
            "data.classes"
        )
    place = {name: number for number, name in enumerate(options.class_names)}
    unknown = sorted({str(value) for value in column} - set(place))
    if unknown:
        raise DataError(
            f"data.label: {options.label!r} holds {unknown[0]!r}, which is not among data.classes"
        )
    return np.array([place[str(value)] for value in column], np.int64)


def _whole(column: Array, name: str) -> Array:
    if column.dtype.kind not in "biuf":
        raise DataError(f"data.label: {name!r} holds {column.dtype}, expected whole class ids")
    with np.errstate(invalid="ignore"):
        numbers = column.astype(np.int64)
    broken = numbers != column
    if broken.any():
        raise DataError(f"data.label: {name!r} holds {column[broken][0]}, expected whole class ids")
    return numbers


def _token_labels(
    columns: Mapping[str, Column], rows: Rows, options: DataOptions
) -> dict[str, Column]:
    tokens = rows[input_column(options.inputs[0])]
    assert isinstance(tokens, Ragged)
    mask = _token_mask(columns, tokens, options)
    if options.task is Task.CAUSAL_LM:
        if options.label is not None:
            raise DataError("data.label: a causal language model's labels are its own next tokens")
        _whole(tokens.values_NW, options.inputs[0])
        label, mask = next_token_labels(tokens, mask)
        return {LABEL: label, MASK: mask}
    if options.label is None:
        return {MASK: mask}
    label = _as_blocks(options.label, columns[options.label])
    _require_same_lengths({options.inputs[0]: tokens, options.label: label})
    values = _whole(label.values_NW, options.label).copy()
    values[~mask.values_NW] = NO_LABEL
    return {LABEL: Ragged(values, label.lengths_B), MASK: mask}


def _token_mask(columns: Mapping[str, Column], tokens: Ragged, options: DataOptions) -> Ragged:
    if options.mask is None:
        return Ragged(np.ones(len(tokens.values_NW), np.bool_), tokens.lengths_B)
    mask = _as_blocks(options.mask, columns[options.mask])
    _require_same_lengths({options.inputs[0]: tokens, options.mask: mask})
    return Ragged(mask.values_NW.astype(np.bool_), mask.lengths_B)


def _require_same_lengths(columns: Mapping[str, Column]) -> None:
    """All lists of a sample are as long as that of the first column which has any."""
    lengths = [(n, c.lengths_B) for n, c in columns.items() if isinstance(c, Ragged)]
    for name, lengths_B in lengths[1:]:
        if not np.array_equal(lengths_B, lengths[0][1]):
            raise DataError(f"data: the lists of {name!r} are not as long as those of the inputs")


def _require_labels_in_range(rows: Rows, options: DataOptions) -> None:
    column = rows[LABEL]
    values = values_of(column)
    wanted = values[values != NO_LABEL] if isinstance(column, Ragged) else values
    highest = options.num_classes
    if len(wanted) and (wanted.min() < 0 or (highest is not None and wanted.max() >= highest)):
        wrong = wanted.min() if wanted.min() < 0 else wanted.max()
        limit = f"0 to {highest - 1}" if highest is not None else "0 or more"
        name = options.label or options.inputs[0]
        if options.padded and highest is not None and wrong >= highest:
            conflicting = np.unique(wanted[wanted >= highest])
            raise DataError(
                f"data.padded: {name!r} holds the ids {_listed(conflicting)}, which data.classes: "
                f"{highest} calls padding; say how many real ids there are"
            )
        raise DataError(f"data.label: {name!r} holds {wrong}, expected {limit}")


def _listed(ids: NDArray[np.int64], most: int = 5) -> str:
    return ", ".join(map(str, ids[:most].tolist())) + (", ..." if len(ids) > most else "")
