"""Rows as the tensors that models get: padded, and augmented where rows hold views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage import schema
from storage.augment_options import AugmentStep
from storage.corpus import positions_of
from storage.features import FEATURE_COLUMN
from storage.options import AnyTemperature
from storage.rows import INPUT, Array, Column, Ragged, Rows, lengths_of, num_rows
from tasks.nn.batch import Batch
from tasks.views import augmented


def collate(
    rows: Rows,
    temperatures: Sequence[AnyTemperature],
    drawn_at: float | None = None,
    padded_length: int | None = None,
    augment: Sequence[AugmentStep] = (),
) -> Batch:
    """Rows as tensors; inputs are padded with zeros, and positions of padding do not count.

    Samples that could not be made do not count either. Where rows hold views, the inputs are those
    of the views: whoever runs a model goes through here, so that teachers and students see the
    same.

    Args:
        rows: of a label set, or of a corpus.
        temperatures: those of the rest.
        drawn_at: of a sampled set, the temperature at which it was drawn.
        padded_length: L of the batch where lengths vary, at least that of the longest sample; by
            default just that.
        augment: the steps that make views, as the specification of the rows says.
    """
    rows = augmented(rows, augment)
    lengths_B = lengths_of(rows)
    input_length = None if lengths_B is None else int(lengths_B.max(initial=0))
    if input_length is not None and padded_length is not None:
        if padded_length < input_length:
            raise ValueError(f"samples of {input_length} values do not fit into {padded_length}")
        input_length = padded_length
    length = input_length if schema.MASK in rows else None
    count = num_rows(rows) * (length or 1)
    kept = schema.INDEX in rows
    label = (
        _positions(rows[schema.LABEL], length, schema.NO_LABEL) if schema.LABEL in rows else None
    )
    label_logit = (
        _positions(rows[schema.LABEL_LOGIT], length, 0.0) if schema.LABEL_LOGIT in rows else None
    )
    return Batch(
        inputs=tuple(
            _input(column, input_length) for name, column in rows.items() if name.startswith(INPUT)
        ),
        index_PK=_positions(rows[schema.INDEX], length, 0)
        if kept
        else torch.empty((count, 0), dtype=torch.int64),
        logit_PK=_positions(rows[schema.LOGIT], length, -np.inf) if kept else torch.empty(count, 0),
        rest_PT=_positions(rows[schema.REST], length, -np.inf) if kept else None,
        weight_PK=_shares(rows[schema.COUNT], length) if schema.COUNT in rows else None,
        label_P=torch.full((count,), schema.NO_LABEL) if label is None else label.long(),
        label_logit_P=label_logit,
        mask_P=_counting(rows, length, count),
        real_P=_real(rows, length),
        temperatures=tuple(temperatures),
        sample_ids=list(_samples(rows)),
        drawn_at=drawn_at,
        features=_features(rows, lengths_B, input_length),
        std_P=_positions(rows[schema.STD], length, 1.0) if schema.STD in rows else None,
    )


def _real(rows: Rows, length: int | None) -> Tensor:
    if length is None:
        return torch.ones(num_rows(rows), dtype=torch.bool)
    return _tensor(np.arange(length) < positions_of(rows)[:, None]).reshape(-1)


def _counting(rows: Rows, length: int | None, count: int) -> Tensor:
    """Which positions count: those of the mask, and none of a sample that could not be made."""
    counts_P = torch.ones(count, dtype=torch.bool)
    if schema.MASK in rows:
        counts_P = _positions(rows[schema.MASK], length, fill=False)
    if schema.BAD in rows:
        good_B = _tensor(np.asarray(rows[schema.BAD]) == "")
        counts_P = counts_P & good_B.repeat_interleave(length or 1)
    return counts_P


def _positions(column: Column, length: int | None, fill: float | bool) -> Tensor:
    if not isinstance(column, Ragged):
        return _tensor(column)
    assert length is not None
    block = column.padded(length, fill)
    return _tensor(block.reshape(-1, *block.shape[2:]))


def _shares(count: Column, length: int | None) -> Tensor:
    """The share of its position's draws that each entry has."""
    count_PK = _positions(count, length, 0).float()
    return count_PK / count_PK.sum(dim=1, keepdim=True).clamp(min=1.0)


def _input(column: Column, length: int | None) -> Tensor:
    if isinstance(column, Ragged):
        assert length is not None
        column = column.padded(length, 0)
    tensor = _tensor(column)
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _features(
    rows: Rows, lengths_B: NDArray[np.int64] | None, length: int | None
) -> dict[str, Tensor]:
    """Stored features by name, float32; padded with zeros, as the inputs are if it is by token."""
    found = {}
    for name, column in rows.items():
        if not name.startswith(FEATURE_COLUMN):
            continue
        if isinstance(column, Ragged):
            theirs = lengths_B is not None and np.array_equal(column.lengths_B, lengths_B)
            longest = int(column.lengths_B.max(initial=0))
            column = column.padded(length if theirs and length is not None else longest, 0)
        elif column.ndim == 4 and length is not None:
            column = _maps(column, length)
        found[name.removeprefix(FEATURE_COLUMN)] = _tensor(column).float()
    return found


def _maps(map_BHNN: Array, length: int) -> Array:
    """Maps of a batch whose longest sample may be shorter than the longest of its row group."""
    cut = map_BHNN[:, :, :length, :length]
    missing = length - cut.shape[3]
    return np.pad(cut, ((0, 0), (0, 0), (0, missing), (0, missing))) if missing else cut


def _tensor(values: Array) -> Tensor:
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    values = np.ascontiguousarray(values)
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _samples(rows: Rows) -> Array:
    return np.asarray(rows[schema.SAMPLE_ID])
