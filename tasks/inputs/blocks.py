"""Documents of a table, or text files, as blocks of tokens for language models.

Documents are joined within their split, so that none of it is seen in another one. What a causal
language model predicts never crosses the border of a document: the column `document` says where
they are. A masked language model gets its blocks with some tokens masked, and these as labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from storage.data_options import DataOptions
from storage.errors import DataError
from storage.input_options import (
    ATTENTION_MASK,
    DOCUMENT,
    INPUT_IDS,
    TOKEN_TYPE_IDS,
    Format,
    TokenOptions,
)
from storage.options_base import Task
from storage.preparation import DOCUMENTS, SPLIT, Chunk
from storage.rows import Ragged
from storage.schema import BAD, LABEL, MASK, NO_LABEL, SAMPLE_ID
from storage.splitting import split_by_hash
from tasks.inputs.masking import masked_positions
from tasks.inputs.packing import Block, Packer
from tasks.inputs.text import decoded, outputs_of, text_columns, texts_of
from tasks.inputs.tokenizers import TextTokenizer

_BLOCKS_OF_CHUNK = 1024


def packed(
    chunks: Iterable[Chunk], options: DataOptions, tokenizer: TextTokenizer
) -> Iterator[Chunk]:
    """Blocks of tokens, of documents in the order in which they come.

    Args:
        chunks: with the column of texts, or of the bytes of files, and `sample_id`: their names.
        options: the recipe's.
        tokenizer: makes tokens of them.
    """
    assert options.tokens is not None
    maker = _BlockMaker(options, options.tokens, tokenizer)
    separator = _separator(options.tokens, tokenizer)
    packers: dict[str, Packer] = {}
    for chunk in chunks:
        names = [str(name) for name in np.asarray(chunk[SAMPLE_ID])]
        texts = [decoded(text) for text in texts_of(chunk, text_columns(options)[0])]
        tokens = tokenizer.documents([text for text, _ in texts])
        splits = _splits_of(chunk, names, options)
        for name, split, ids, (_, reason) in zip(names, splits, tokens, texts, strict=True):
            if reason:
                maker.add_bad(split, name, reason)
                continue
            packer = packers.setdefault(split, Packer(options.tokens.block, separator))
            for block in packer.add(name, np.asarray(ids, np.int64)):
                maker.add(split, block)
                if maker.is_full:
                    yield maker.take()
    for split, packer in packers.items():
        for block in packer.finish():
            maker.add(split, block)
    if not maker.is_empty:
        yield maker.take()


class _BlockMaker:
    """Gathers blocks, and makes columns of them."""

    def __init__(
        self, options: DataOptions, tokens: TokenOptions, tokenizer: TextTokenizer
    ) -> None:
        self._options = options
        self._tokens = tokens
        self._outputs = outputs_of(options)
        self._is_masked = options.task is Task.MASKED_LM
        self._mask_token = tokenizer.mask if self._is_masked else None
        if self._is_masked and self._mask_token is None:
            raise DataError(
                "data.tokens: this tokenizer has no mask token, which a masked language model needs"
            )
        self._blocks: list[Block] = []
        self._splits: list[str] = []
        self._reasons: list[str] = []

    @property
    def is_full(self) -> bool:
        """Whether a chunk is together."""
        return len(self._blocks) >= _BLOCKS_OF_CHUNK

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added since the last chunk."""
        return not self._blocks

    def add(self, split: str, block: Block, reason: str = "") -> None:
        """Another block."""
        self._blocks.append(block)
        self._splits.append(split)
        self._reasons.append(reason)

    def add_bad(self, split: str, name: str, reason: str) -> None:
        """A document that cannot be read is a sample of its own."""
        self.add(split, Block(name, np.zeros(1, np.int64), np.zeros(1, np.int64)), reason)

    def take(self) -> Chunk:
        """The columns of the blocks gathered so far."""
        blocks = self._blocks
        lengths_B = np.array([len(block.token_L) for block in blocks], np.int64)
        ids = [block.sample_id for block in blocks]
        token_N = np.concatenate([block.token_L for block in blocks])
        document_N = np.concatenate([block.document_L for block in blocks])
        good_N = np.repeat(np.array([not reason for reason in self._reasons]), lengths_B)
        chunk: Chunk = {
            SAMPLE_ID: np.array(ids, dtype=object),
            BAD: np.array(self._reasons, dtype=object),
        }
        if any(self._splits):
            name = self._options.splits.column or SPLIT
            chunk[name] = np.array(self._splits, dtype=object)
        values = {
            ATTENTION_MASK: np.ones_like(token_N),
            TOKEN_TYPE_IDS: np.zeros_like(token_N),
            DOCUMENT: document_N,
        }
        if self._mask_token is not None:
            share, seed = self._tokens.mask_share, self._tokens.seed
            guessed_N = masked_positions(ids, lengths_B, share, seed) & good_N
            chunk[LABEL] = Ragged(np.where(guessed_N, token_N, NO_LABEL), lengths_B)
            chunk[MASK] = Ragged(guessed_N, lengths_B)
            values[INPUT_IDS] = np.where(guessed_N, self._mask_token, token_N)
        else:
            chunk[MASK] = Ragged(good_N, lengths_B)
            values[INPUT_IDS] = token_N
        chunk |= {name: Ragged(values[name], lengths_B) for name in self._outputs}
        if not self._is_masked:
            chunk[DOCUMENTS] = Ragged(document_N, lengths_B)
        self._blocks, self._splits, self._reasons = [], [], []
        return chunk


def _splits_of(chunk: Chunk, names: Sequence[str], options: DataOptions) -> Sequence[str]:
    """The split of each document, where they are not all of one."""
    if options.format is not Format.AUTO:
        return [""] * len(names)
    if options.splits.column is not None:
        return [str(split) for split in np.asarray(chunk[options.splits.column])]
    if options.splits.fractions is not None:
        return [str(split) for split in split_by_hash(names, options.splits)]
    return [""] * len(names)


def _separator(tokens: TokenOptions, tokenizer: TextTokenizer) -> int | None:
    if not tokens.separator:
        return None
    if tokenizer.separator is None:
        raise DataError(
            "data.tokens: this tokenizer has no token for the end of a text; say separator: false"
        )
    return tokenizer.separator
