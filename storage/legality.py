"""What no soft label may hold: looked for in decoded rows, number by number; and impossible forms.

Shape letters: N positions, K the most entries of a position, T temperatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from storage import schema
from storage.features import FEATURE_COLUMN
from storage.options import STD, Keep, Selection
from storage.rows import Array, Column, Ragged, lengths_of, values_of
from storage.spec import LabelSetSpec

MOST_CLASSES: Final = 1 << 24
"""Tables of ids are as long as there are classes."""

_FLOATS = (schema.LABEL_LOGIT, *schema.STATISTICS)


def impossible(spec: LabelSetSpec) -> str | None:
    """Why no label set has this form, or nothing: asked before memory is reserved by it."""
    if spec.num_classes > MOST_CLASSES:
        return f"{spec.num_classes} classes, a label set has at most {MOST_CLASSES}"
    if spec.temperatures[0] == STD:
        return "logits at std, which are stored at a number"
    for split, selection in spec.selections.items():
        if not 1 <= selection.k <= spec.num_classes:
            return f"{selection.k} entries of {spec.num_classes} classes in the split {split}"
    for entry in spec.inputs:
        try:
            known = np.dtype(entry.dtype).kind in "biuf"
        except TypeError:
            known = False
        if not known:
            return f"an input {entry.name} of {entry.dtype!r}, which is no number type"
    return None


def illegal(rows: Mapping[str, Column], spec: LabelSetSpec, selection: Selection) -> str | None:
    """What the rows of a split hold and no soft label may, or nothing."""
    problem = _illegal_lengths(rows) or _illegal_views(rows, spec)
    index_NK, logit_NK = values_of(rows[schema.INDEX]), values_of(rows[schema.LOGIT])
    if problem or index_NK.size == 0:
        return problem
    present_NK = np.ones(index_NK.shape, np.bool_)
    if selection.varies:
        present_NK = np.arange(index_NK.shape[1]) < values_of(rows[schema.KEPT])[:, None]
    return (
        _illegal_ids(index_NK, present_NK, spec.num_classes)
        or _illegal_numbers(rows, logit_NK)
        or _illegal_set(rows, logit_NK, present_NK, selection)
        or _illegal_labels(rows, spec.num_classes)
        or _illegal_features(rows)
    )


def _illegal_lengths(rows: Mapping[str, Column]) -> str | None:
    """Blocks without a value for each position of the entries, or inputs of several lengths."""
    index = rows[schema.INDEX]
    expected_B = index.lengths_B if isinstance(index, Ragged) else lengths_of(rows)
    if expected_B is None:
        return None
    than = schema.INDEX if isinstance(index, Ragged) else "the input before it"
    for name, column in rows.items():
        if name.startswith(FEATURE_COLUMN):  # they may be of other positions, such as patches
            continue
        if isinstance(column, Ragged) and not np.array_equal(column.lengths_B, expected_B):
            return f"other numbers of positions in {name} than in {than}"
    return None


def _illegal_views(rows: Mapping[str, Column], spec: LabelSetSpec) -> str | None:
    view_B = values_of(rows[schema.VIEW]) if schema.VIEW in rows else np.zeros(0)
    wrong_B = view_B[(view_B < 0) | (view_B >= spec.views)]
    return f"a view {wrong_B[0]} of {spec.views}" if len(wrong_B) else None


def _illegal_features(rows: Mapping[str, Column]) -> str | None:
    for name, column in rows.items():
        if name.startswith(FEATURE_COLUMN) and not np.isfinite(values_of(column)).all():
            return f"a number of {name} that is NaN or infinite"
    return None


def _illegal_ids(index_NK: Array, present_NK: NDArray[np.bool_], num_classes: int) -> str | None:
    lowest, highest = index_NK.min(), index_NK.max()
    if lowest < 0 or highest >= num_classes:
        wrong = lowest if lowest < 0 else highest
        return f"a class id of {wrong}, there are {num_classes} classes"
    # Places without an entry get numbers of their own, below all ids.
    distinct_NK = np.where(present_NK, index_NK, -1 - np.arange(index_NK.shape[1]))
    ordered_NK = np.sort(distinct_NK, axis=1)
    if (ordered_NK[:, 1:] == ordered_NK[:, :-1]).any():
        return "a class is kept twice at one position"
    return None


def _illegal_numbers(rows: Mapping[str, Column], logit_NK: Array) -> str | None:
    rest_NT = values_of(rows[schema.REST])
    if np.isnan(logit_NK).any() or (logit_NK > 0).any():
        return "a logit above 0 or NaN"
    if np.isnan(rest_NT).any() or (rest_NT == np.inf).any():
        return "a rest that is NaN or infinite"
    if schema.STD in rows:
        std_N = values_of(rows[schema.STD])
        if not (np.isfinite(std_N) & (std_N > 0)).all():
            return "a temperature of std that is no number above 0"
    for name in _FLOATS:
        if name in rows and np.isnan(values_of(rows[name])).any():
            return f"a {name} that is NaN"
    if schema.LABEL_LOGIT in rows and (values_of(rows[schema.LABEL_LOGIT]) > 0).any():
        return f"a {schema.LABEL_LOGIT} above 0"
    return None


def _illegal_set(
    rows: Mapping[str, Column],
    logit_NK: Array,
    present_NK: NDArray[np.bool_],
    selection: Selection,
) -> str | None:
    if selection.keep is not Keep.SAMPLE:
        if (logit_NK[:, 0] != 0).any():
            return "a position without its best class in the first place"
        return None
    if (logit_NK[:, 0] < logit_NK.max(axis=1)).any():
        return "a position whose most probable class is not in the first place"
    count_NK = values_of(rows[schema.COUNT])
    if (count_NK[present_NK] < 1).any() or (count_NK.sum(axis=1) != selection.draws).any():
        return f"a position whose draws are not {selection.draws}"
    if np.isneginf(logit_NK[present_NK]).any():
        return "a class without probability that was drawn"
    return None


def _illegal_labels(rows: Mapping[str, Column], num_classes: int) -> str | None:
    if schema.LABEL not in rows:
        return None
    label_N = values_of(rows[schema.LABEL])
    wrong = (label_N >= num_classes) | ((label_N < 0) & (label_N != schema.NO_LABEL))
    if wrong.any():
        return f"a hard label of {label_N[wrong][0]}, there are {num_classes} classes"
    return None
