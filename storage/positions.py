"""Decoded soft labels, position by position: probabilities at a stored temperature, best first.

What exports write and `softlabel inspect --samples` shows. Plain numpy, in float64.

Shape letters: N positions of all samples, K the most entries of a position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage import schema
from storage.errors import RecipeError
from storage.options import STD, AnyTemperature, temperature_names
from storage.rows import Array, Ragged, Rows, num_rows, values_of
from storage.spec import LabelSetSpec

Float64Array = NDArray[np.float64]
COLUMNS = (
    schema.SAMPLE_ID, schema.VIEW, schema.INDEX, schema.LOGIT, schema.COUNT, schema.KEPT,
    schema.REST, schema.STD, schema.LABEL, schema.MASK,
)  # fmt: skip
"""The columns of rows that are looked at, where a split has them."""


@dataclass(frozen=True)
class Positions:
    """N positions of some samples.

    Attributes:
        sample_N: the row of the sample that each belongs to.
        place_N: its place in that sample.
        index_NK: class ids, int64, the most probable first.
        log_p_NK: their log-probabilities; -inf where there is no mass or no entry.
        present_NK: which entries there are.
        log_rest_N: the log-probability of all other classes together; -inf where none is left.
        count_NK: of a sampled set how often each was drawn, 0 where there is no entry; or None.
        label_N: hard labels, `NO_LABEL` where there is none; or None.
        mask_N: of blocks, the positions that count; or None.
    """

    sample_N: NDArray[np.int64]
    place_N: NDArray[np.int64]
    index_NK: NDArray[np.int64]
    log_p_NK: Float64Array
    present_NK: NDArray[np.bool_]
    log_rest_N: Float64Array
    count_NK: NDArray[np.int64] | None
    label_N: NDArray[np.int64] | None
    mask_N: NDArray[np.bool_] | None


def stored_temperature(spec: LabelSetSpec, temperature: AnyTemperature | None) -> AnyTemperature:
    """The temperature that is asked for; None means T, the first that is stored.

    Raises:
        RecipeError: nothing is stored for it.
    """
    if temperature is None:
        return spec.temperature
    if temperature not in spec.temperatures:
        wanted = temperature_names([temperature])[0]
        raise RecipeError(
            f"--temperature: the label set holds no rest for {wanted}; "
            f"it has: {', '.join(temperature_names(spec.temperatures))}"
        )
    return temperature


def positions_of(rows: Rows, spec: LabelSetSpec, at: AnyTemperature) -> Positions:
    """The positions of rows that have at least the columns `COLUMNS`, at temperature `at`.

    The softmax over the k kept logits, brought from T to `at`, and the rest stored for `at` is
    exact: see storage/FORMAT.md.
    """
    index = rows[schema.INDEX]
    lengths_B = index.lengths_B if isinstance(index, Ragged) else np.ones(num_rows(rows), np.int64)
    logit_NK = values_of(rows[schema.LOGIT]).astype(np.float64)
    present_NK = np.ones(logit_NK.shape, np.bool_)
    if schema.KEPT in rows:
        present_NK = np.arange(logit_NK.shape[1]) < values_of(rows[schema.KEPT])[:, None]
    scaled_NK = np.where(present_NK, logit_NK, -np.inf) * (spec.temperature / _divisor(rows, at))
    rest_N = values_of(rows[schema.REST])[:, spec.temperatures.index(at)].astype(np.float64)
    total_N = _log_sum_exp(np.concatenate([scaled_NK, rest_N[:, None]], axis=1))
    # What is present comes first, whatever its logit; equal logits stay in their order.
    order_NK = np.lexsort((-scaled_NK, ~present_NK), axis=1)
    count = rows.get(schema.COUNT)
    label, mask = rows.get(schema.LABEL), rows.get(schema.MASK)
    return Positions(
        sample_N=np.repeat(np.arange(len(lengths_B)), lengths_B),
        place_N=np.arange(lengths_B.sum()) - np.repeat(np.cumsum(lengths_B) - lengths_B, lengths_B),
        index_NK=_ordered(values_of(index), order_NK),
        log_p_NK=_minus(_ordered(scaled_NK, order_NK), total_N[:, None]),
        present_NK=_ordered(present_NK, order_NK),
        log_rest_N=_minus(rest_N, total_N),
        count_NK=None if count is None else _ordered(values_of(count), order_NK),
        label_N=None if label is None else values_of(label),
        mask_N=None if mask is None else values_of(mask),
    )


def _divisor(rows: Rows, at: AnyTemperature) -> float | Float64Array:
    """What logits are divided by: a number, or for each position its own, [N, 1]."""
    return values_of(rows[schema.STD]).astype(np.float64)[:, None] if at == STD else at


def renormalised(positions: Positions) -> Float64Array:
    """Log-probabilities among the kept classes alone, [N, K]; -inf where there is no mass."""
    total_N = _log_sum_exp(positions.log_p_NK)
    return _minus(positions.log_p_NK, total_N[:, None])


def _log_sum_exp(values_NK: Float64Array) -> Float64Array:
    largest_N = values_NK.max(axis=1)
    safe_N = np.where(np.isneginf(largest_N), 0.0, largest_N)
    with np.errstate(divide="ignore"):
        found: Float64Array = np.log(np.exp(values_NK - safe_N[:, None]).sum(axis=1)) + safe_N
    return found


def _minus(values: Float64Array, total: Float64Array) -> Float64Array:
    """The difference; -inf stays."""
    finite = ~np.isneginf(values)
    return np.where(finite, values - np.where(np.isneginf(total), 0.0, total), -np.inf)


def _ordered(values_NK: Array, order_NK: NDArray[np.int64]) -> Array:
    return np.take_along_axis(values_NK, order_NK, axis=1)
