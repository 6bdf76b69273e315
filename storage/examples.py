"""Decoded soft labels of a few samples, as people look at them: class names and probabilities."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from storage import schema
from storage.positions import COLUMNS, Positions, positions_of
from storage.reader import LabelSet
from storage.rows import num_rows, take

MOST_POSITIONS: Final = 16
"""So many positions of a sample are shown."""
MOST_CLASSES: Final = 8
"""So many classes of a position are shown; the others go with the rest."""
TEMPERATURE: Final = 1.0


def examples(labels: LabelSet, split: str, count: int) -> list[dict[str, Any]]:
    """The first positions of the first samples of a split, at T = 1.

    Returns:
        For each position `sample_id`, `position`, `label` (a class or None), `counts` (whether it
        counts, in blocks of tokens), `classes` (a list of `id`, `name`, `probability` and, of a
        sampled set, `draws`) and `others`, the probability of all classes that are not listed.

    Raises:
        MissingProductError: there is no such split.
        IntegrityError: a shard is damaged.
    """
    found: list[dict[str, Any]] = []
    shards = labels.shards(split)
    names = [name for name in labels.columns(split) if name in COLUMNS]
    left = count
    for shard in shards:
        for group in range(len(shard.row_groups)):
            if left <= 0:
                return found
            rows = labels.read(shard, group, names)
            rows = take(rows, np.arange(min(left, num_rows(rows))))
            left -= num_rows(rows)
            positions = positions_of(rows, labels.spec, TEMPERATURE)
            ids_B = np.asarray(rows[schema.SAMPLE_ID])
            for place in np.flatnonzero(positions.place_N < MOST_POSITIONS).tolist():
                sample_id = str(ids_B[positions.sample_N[place]])
                found.append({"sample_id": sample_id} | _shown(positions, place, labels))
    return found


def _shown(positions: Positions, place: int, labels: LabelSet) -> dict[str, Any]:
    content: dict[str, Any] = {"position": int(positions.place_N[place])}
    label = None if positions.label_N is None else int(positions.label_N[place])
    content["label"] = None if label is None or label < 0 else _class(label, labels)
    if positions.mask_N is not None:
        content["counts"] = bool(positions.mask_N[place])
    number = int(positions.present_NK[place].sum())
    probabilities = [math.exp(value) for value in positions.log_p_NK[place, :number]]
    classes = []
    for entry in range(min(number, MOST_CLASSES)):
        shown = _class(int(positions.index_NK[place, entry]), labels)
        shown["probability"] = probabilities[entry]
        if positions.count_NK is not None:
            shown["draws"] = int(positions.count_NK[place, entry])
        classes.append(shown)
    others = math.exp(positions.log_rest_N[place]) + sum(probabilities[MOST_CLASSES:])
    return content | {"classes": classes, "others": others}


def _class(number: int, labels: LabelSet) -> dict[str, Any]:
    names = labels.spec.class_names
    return {"id": number, "name": names[number] if names else str(number)}
