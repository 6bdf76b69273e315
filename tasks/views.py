"""Rows of views: their inputs as the models get them, made from the stored ones and the seeds.

All who run a model go through `tasks.collate`, and it goes through here: the teacher when it
labels, a fitted teacher, and every student. So they see the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from storage import schema
from storage.augment_options import AugmentStep
from storage.rows import INPUT, Array, Column, Ragged, Rows, values_of
from tasks.nn.augment import augment

_NOT_CALCULATED_WITH = ("uint16", "uint32", "uint64")
"""Types that torch moves around in part only; what is done to them needs no more than int64."""


def augmented(rows: Rows, steps: Sequence[AugmentStep]) -> Rows:
    """The rows with the inputs of their views; the same rows where they hold none.

    Args:
        rows: of a corpus or a label set.
        steps: of the label set's specification, or of the recipe.

    Raises:
        ValueError: the rows hold views, and there are no steps to make them by.
    """
    if schema.VIEW_SEED not in rows:
        return rows
    if not steps:
        raise ValueError("the rows hold views; expected the augment steps of their specification")
    names = [name for name in rows if name.startswith(INPUT)]
    seed_B = torch.from_numpy(values_of(rows[schema.VIEW_SEED]).copy())
    by_input: dict[str, list[tuple[int, AugmentStep]]] = {}
    for place, step in enumerate(steps):
        name = names[0] if step.input is None else schema.input_column(step.input)
        by_input.setdefault(name, []).append((place, step))
    return {
        name: _augmented(column, seed_B, by_input[name]) if name in by_input else column
        for name, column in rows.items()
    }


def _augmented(column: Column, seed_B: Tensor, steps: Sequence[tuple[int, AugmentStep]]) -> Column:
    if isinstance(column, Ragged):
        lengths_B = torch.from_numpy(column.lengths_B)
        return Ragged(_changed(column.values_NW, seed_B, steps, lengths_B), column.lengths_B)
    return _changed(column, seed_B, steps, None)


def _changed(
    values: Array,
    seed_B: Tensor,
    steps: Sequence[tuple[int, AugmentStep]],
    lengths_B: Tensor | None,
) -> Array:
    wide = values.astype("int64") if values.dtype.name in _NOT_CALCULATED_WITH else values.copy()
    changed: Array = augment(torch.from_numpy(wide), seed_B, steps, lengths_B).numpy()
    return changed.astype(values.dtype)
