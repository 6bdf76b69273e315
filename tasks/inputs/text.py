"""Texts of a table, or of files, as columns of tokens.

Chunks of columns come in and go out in order. A text that cannot be had (no UTF-8, no tokens, too
long) becomes a sample of one token with the reason in the column `bad`.

Shape letters: B texts, N tokens of all texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.data_options import DataOptions
from storage.errors import BadSampleError, DataError
from storage.input_options import (
    ATTENTION_MASK,
    DOCUMENT,
    INPUT_IDS,
    TEXT,
    TOKEN_TYPE_IDS,
    TokenOptions,
)
from storage.preparation import Chunk
from storage.rows import Array, Column, Ragged
from storage.schema import BAD, MASK, NO_LABEL
from tasks.inputs.tokenizers import Encoded, TextTokenizer

_PLACEHOLDER = Encoded([0], [0], [None])


def outputs_of(options: DataOptions) -> tuple[str, ...]:
    """The columns of tokens that the models get, by position."""
    assert options.tokens is not None
    if options.tokens.outputs is not None:
        return options.tokens.outputs
    return (INPUT_IDS,) if options.task == "causal_lm" else (INPUT_IDS, ATTENTION_MASK)


def text_columns(options: DataOptions) -> tuple[str, ...]:
    """The columns that hold texts."""
    return options.inputs or (TEXT,)


def decode_text(content: Any) -> str:
    """A text out of a column, or out of the bytes of a file.

    Raises:
        BadSampleError: it is not UTF-8, or could not be read.
    """
    if isinstance(content, BadSampleError):
        raise content
    if not isinstance(content, bytes):
        return str(content)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSampleError(f"the text is not UTF-8 at byte {error.start:,}") from error


def classified(chunk: Chunk, options: DataOptions, tokenizer: TextTokenizer) -> Chunk:
    """Texts, or pairs of texts, each of which is one sample with one prediction."""
    assert options.tokens is not None
    columns = [texts_of(chunk, name) for name in text_columns(options)]
    texts = [[decoded(text) for text in column] for column in columns]
    reasons = [next((why for _, why in both if why), "") for both in zip(*texts, strict=True)]
    given = [[text for text, _ in column] for column in texts]
    encoded = tokenizer.texts(given[0], given[1] if len(given) == 2 else None, _most(options))
    encoded = _checked(encoded, reasons, options.tokens)
    kept = {name: column for name, column in chunk.items() if name not in options.inputs}
    return {**kept, **_columns(encoded, outputs_of(options)), **_bad(reasons)}


def tagged(chunk: Chunk, options: DataOptions, tokenizer: TextTokenizer) -> Chunk:
    """Lists of words with a label each: it belongs to the first token of its word."""
    assert options.tokens is not None
    (name,) = options.inputs
    words = _lists_of(chunk[name], name)
    reasons = [""] * len(words)
    encoded = tokenizer.words([[str(word) for word in line] for line in words], _most(options))
    encoded = _checked(encoded, reasons, options.tokens)
    first = [_first_tokens(line) for line in encoded]
    mask_N = np.concatenate([place >= 0 for place in first]) if first else np.zeros(0, np.bool_)
    lengths_B = np.array([len(line.ids) for line in encoded], np.int64)
    counts_N = mask_N.copy()
    if options.mask is not None:
        of_words = _lists_of(chunk[options.mask], options.mask)
        counts_N &= _of_first_tokens(of_words, words, first, options.mask).astype(bool)
    found: Chunk = {options.mask or MASK: Ragged(counts_N, lengths_B)}
    if options.label is not None:
        of_words = [_label_ids(line, options) for line in _lists_of(chunk[options.label], "label")]
        label_N = _of_first_tokens(of_words, words, first, options.label).astype(np.int64)
        found[options.label] = Ragged(np.where(mask_N, label_N, NO_LABEL), lengths_B)
    used = {name, options.mask, options.label}
    kept = {other: column for other, column in chunk.items() if other not in used}
    return {**kept, **_columns(encoded, outputs_of(options)), **found, **_bad(reasons)}


def decoded(text: Any) -> tuple[str, str]:
    """A text out of a column, and what is wrong with it; or nothing."""
    try:
        return decode_text(text), ""
    except BadSampleError as error:
        return "", str(error)


def _most(options: DataOptions) -> int | None:
    """Where texts are cut; those that must not be are had whole, to be told."""
    tokens = options.tokens
    assert tokens is not None
    return tokens.max_length if tokens.too_long == "truncate" else None


def _checked(
    encoded: Sequence[Encoded], reasons: list[str], options: TokenOptions
) -> list[Encoded]:
    """The texts, with a placeholder for each that is wrong; says why in `reasons`."""
    for place, text in enumerate(encoded):
        if not reasons[place] and not len(text.ids):
            reasons[place] = "the text has no tokens"
        if not reasons[place] and len(text.ids) > options.max_length:
            reasons[place] = (
                f"the text has {len(text.ids):,} tokens, {options.max_length:,} are allowed"
            )
    return [_PLACEHOLDER if reason else text for text, reason in zip(encoded, reasons, strict=True)]


def _columns(encoded: Sequence[Encoded], outputs: Iterable[str]) -> Chunk:
    lengths_B = np.array([len(text.ids) for text in encoded], np.int64)
    columns: Chunk = {}
    for name in outputs:
        if name == INPUT_IDS:
            values = _joined([text.ids for text in encoded])
        elif name == TOKEN_TYPE_IDS:
            values = _joined([text.types for text in encoded])
        else:
            assert name in (ATTENTION_MASK, DOCUMENT)
            values = np.full(lengths_B.sum(), int(name == ATTENTION_MASK), np.int64)
        columns[name] = Ragged(values, lengths_B)
    return columns


def _bad(reasons: Sequence[str]) -> Chunk:
    return {BAD: np.array(reasons, dtype=object)}


def _joined(lists: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    parts = [np.asarray(values, np.int64) for values in lists]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def texts_of(chunk: Chunk, name: str) -> Array:
    """A column of texts.

    Raises:
        DataError: it holds something else.
    """
    column = chunk[name]
    if isinstance(column, Ragged) or column.ndim != 1 or column.dtype.kind not in "OUST":
        raise DataError(f"data.inputs: the column {name!r} holds no texts; data.tokens needs them")
    return column


def _lists_of(column: Column, name: str) -> list[Array]:
    """A list for each sample, whether their lengths vary or not."""
    if isinstance(column, Ragged):
        return np.split(column.values_NW, np.cumsum(column.lengths_B)[:-1])
    if column.ndim != 2:
        raise DataError(f"data: the column {name!r} must hold a list for each sample: its words")
    return list(column)


def _first_tokens(text: Encoded) -> NDArray[np.int64]:
    """For each token the place of the word that it begins; -1 for all others."""
    owners = np.array([-1 if word is None else word for word in text.words], np.int64)
    before = np.concatenate([[-1], np.maximum.accumulate(owners)[:-1]]) if len(owners) else owners
    return np.where(owners > before, owners, -1)


def _of_first_tokens(
    values: Sequence[Array], words: Sequence[Array], first: Sequence[NDArray[np.int64]], name: str
) -> Array:
    """The value of its word for each token; anything where it begins none."""
    parts = []
    for line, of_words, place in zip(values, words, first, strict=True):
        if len(line) != len(of_words):
            raise DataError(
                f"data: a sample has {len(of_words)} words, and {len(line)} values of {name!r}"
            )
        parts.append(line[place] if len(line) else np.zeros(len(place), np.int64))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _label_ids(labels: Array, options: DataOptions) -> Array:
    if labels.dtype.kind not in "OUST":
        return labels
    if options.class_names is None:
        raise DataError(
            f"data.label: {options.label!r} holds text; name the classes in their order in "
            "data.classes"
        )
    known = {name: number for number, name in enumerate(options.class_names)}
    unknown = next((str(name) for name in labels if str(name) not in known), None)
    if unknown is not None:
        raise DataError(
            f"data.label: {options.label!r} holds {unknown!r}, which is not among data.classes"
        )
    return np.array([known[str(name)] for name in labels], np.int64)
