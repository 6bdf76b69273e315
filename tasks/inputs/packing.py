"""Documents of tokens, joined and cut into blocks.

Every token is in exactly one block, in its order; no block but the last is shorter than asked for.
A block is named after the document and the offset in it where the block begins.

Shape letters: L tokens of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Some tokens of one or more documents.

    Attributes:
        sample_id: `<document>:<offset of the first token in it>`.
        token_L: the tokens.
        document_L: which document of the block each belongs to: 0, 1, ...
    """

    sample_id: str
    token_L: Tokens
    document_L: Tokens


@dataclass
class Packer:
    """Cuts documents, one after the other, into blocks.

    Attributes:
        block: tokens of a block.
        separator: the token that ends each document; None for none.
    """

    block: int
    separator: int | None
    _parts: list[Tokens] = field(default_factory=list, init=False)
    _filled: int = field(default=0, init=False)
    _name: str = field(default="", init=False)

    def add(self, name: str, tokens: Tokens) -> Iterator[Block]:
        """The blocks that a document fills; one without tokens leaves no trace."""
        if not len(tokens):
            return
        if self.separator is not None:
            tokens = np.append(tokens, self.separator)
        start = 0
        while start < len(tokens):
            if not self._parts:
                self._name = f"{name}:{start}"
            part = tokens[start : start + self.block - self._filled]
            self._parts.append(part.astype(np.int64))
            self._filled += len(part)
            start += len(part)
            if self._filled == self.block:
                yield self._take()

    def finish(self) -> Iterator[Block]:
        """The last block, where one is begun."""
        if self._parts:
            yield self._take()

    def _take(self) -> Block:
        lengths = [len(part) for part in self._parts]
        document_L = np.repeat(np.arange(len(lengths)), lengths)
        block = Block(self._name, np.concatenate(self._parts), document_L)
        self._parts, self._filled = [], 0
        return block
