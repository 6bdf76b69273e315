"""The hard labels of blocks of tokens, and which of their positions count."""

from __future__ import annotations

import numpy as np

from storage.class_ids import whole
from storage.errors import DataError
from storage.lists import as_blocks, require_same_lengths
from storage.meaning import Meaning
from storage.options import Task
from storage.preparation import DOCUMENTS, Chunk
from storage.rows import Column, Ragged, Rows
from storage.schema import LABEL, MASK, NO_LABEL, input_column


def token_labels(chunk: Chunk, rows: Rows, meaning: Meaning) -> dict[str, Column]:
    """The mask of blocks of tokens, and their labels where there are any.

    Raises:
        DataError: these are not as the recipe says.
    """
    options = meaning.options
    name = meaning.inputs[0]
    tokens = rows[input_column(name)]
    assert isinstance(tokens, Ragged)
    mask = _token_mask(chunk, tokens, meaning)
    if options.task is Task.CAUSAL_LM:
        if options.label is not None:
            raise DataError("data.label: a causal language model's labels are its own next tokens")
        whole(tokens.values_NW, name)
        documents = chunk.get(DOCUMENTS) if meaning.is_prepared else None
        assert documents is None or isinstance(documents, Ragged)
        label, mask = next_token_labels(tokens, mask, documents)
        return {LABEL: label, MASK: mask}
    column = meaning.column(chunk, options.label, LABEL)
    if column is None:
        return {MASK: mask}
    said = options.label or LABEL
    label = as_blocks(said, column)
    require_same_lengths({name: tokens, said: label})
    values = whole(label.values_NW, said).copy()
    values[~mask.values_NW] = NO_LABEL
    return {LABEL: Ragged(values, label.lengths_B), MASK: mask}


def _token_mask(chunk: Chunk, tokens: Ragged, meaning: Meaning) -> Ragged:
    column = meaning.column(chunk, meaning.options.mask, MASK)
    if column is None:
        return Ragged(np.ones(len(tokens.values_NW), np.bool_), tokens.lengths_B)
    said = meaning.options.mask or MASK
    mask = as_blocks(said, column)
    require_same_lengths({meaning.inputs[0]: tokens, said: mask})
    return Ragged(mask.values_NW.astype(np.bool_), mask.lengths_B)


def next_token_labels(
    tokens: Ragged, mask: Ragged, documents: Ragged | None = None
) -> tuple[Ragged, Ragged]:
    """The hard labels of a causal language model, and which positions count.

    Position t predicts token t + 1, so the label of t is token t + 1; it counts where both do and
    are of one document, and the last position of a block never does. This is the only place that
    shifts.
    """
    ends = np.cumsum(tokens.lengths_B)[tokens.lengths_B > 0] - 1
    label = np.roll(tokens.values_NW.astype(np.int64), -1)
    counts = np.roll(mask.values_NW, -1) & mask.values_NW
    counts[ends] = False
    if documents is not None:
        counts &= np.roll(documents.values_NW, -1) == documents.values_NW
    label[~counts] = NO_LABEL
    return Ragged(label, tokens.lengths_B), Ragged(counts, tokens.lengths_B)
